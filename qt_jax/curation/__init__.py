"""What people do to datasets: collect, convert, write, repack, validate, inspect.

The only room that imports TensorFlow and rlds.
"""
