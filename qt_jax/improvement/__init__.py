"""Rounds of experience: a policy acts, what it did is kept, and it trains on from there."""
