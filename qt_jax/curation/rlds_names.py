"""Imports the rlds library without reverb.

`rlds` imports `reverb` for one module that we do not use, and dm-reverb's binary does not load beside today's
TensorFlow. Only this file puts a stand-in for it into `sys.modules`, and only where the real one does not
import.
"""

from __future__ import annotations

import importlib
import sys
import types


def import_rlds() -> types.ModuleType:
    """Returns the `rlds` module; imports TensorFlow, so call it late."""
    try:
        importlib.import_module("reverb")
    except ImportError:
        writer, reverb = types.ModuleType("reverb.structured_writer"), types.ModuleType("reverb")
        for module in (writer, reverb):  # any name that rlds' type annotations look up
            vars(module)["__getattr__"] = lambda name: object
        vars(reverb)["structured_writer"] = writer
        sys.modules["reverb"] = reverb
    return importlib.import_module("rlds")
