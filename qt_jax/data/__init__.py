"""What training reads: RLDS datasets, their specs and indices, and the loader that cuts them into segments.

The only package that imports grain; TensorFlow is not needed here.
"""
