"""Simulators: suites of language-conditioned tasks and the scripted collectors.

The only room that imports them.
"""
