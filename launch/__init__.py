"""Where runs are started: this machine, SLURM, TPU VMs, GKE.

Every launcher starts the same `train` command, and the same sweeps.
"""
