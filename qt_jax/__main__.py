"""`python -m qt_jax COMMAND`."""

from qt_jax.cli import main

if __name__ == "__main__":
    main.run()
