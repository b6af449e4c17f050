"""A config on devices that one does not have: memory, communication, step time."""
