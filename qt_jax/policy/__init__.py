"""What acts on a robot: an observation in, an action out."""
