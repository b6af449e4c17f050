"""A checkpoint as a policy: in this process (`live`), or as a folder that needs nothing of training
(`artefact`, `onnx`).
"""
