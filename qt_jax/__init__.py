"""qt_jax: offline reinforcement learning of robot policies with Q-Transformer, in JAX."""

__version__ = "0.1.0"
