"""One thin file a door: `python -m qt_jax DOOR --config=experiments/quickstart.py`."""
