"""Policy runtime. Imports the ground floor, jax and numpy only: no flax, TensorFlow, optimiser or orbax."""
