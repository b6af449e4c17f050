"""RLDS datasets: written, read, cut into segments.

The only room that imports tensorflow, tfds, rlds and grain.
"""
