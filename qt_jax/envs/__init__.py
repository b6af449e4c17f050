"""Simulators: suites of language-conditioned tasks, and scripted collectors.

No other room imports a simulator.
"""
