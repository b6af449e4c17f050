"""Counts what decides whether failures help (who acted, what succeeded, where), and advises by a rule."""
