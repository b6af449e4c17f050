"""Flax NNX modules. They know shapes, not algorithms."""
