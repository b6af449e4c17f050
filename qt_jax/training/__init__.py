"""The learner: configuration, train state, train step, mesh, checkpoints, metrics, the loop."""
