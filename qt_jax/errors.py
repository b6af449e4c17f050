"""The one error a person at the keyboard or at the robot is meant to read."""


class UserError(Exception):
    """Bad input: the message is one line that names the value, what was expected and the remedy.

    Doors (`qt_jax/cli`) print it without a traceback and exit with status 2.
    """
