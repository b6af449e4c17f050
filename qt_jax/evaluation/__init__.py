"""Rollouts through the policy runtime that serving uses, statistics, and the report."""
