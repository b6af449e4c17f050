"""One thin file for each command: `python -m qt_jax COMMAND --config=experiments/quickstart.py`."""
