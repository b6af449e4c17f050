"""A checkpoint as a policy: in this process, or as an artefact, a folder that needs nothing of training."""
