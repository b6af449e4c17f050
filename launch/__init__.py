"""Starts runs on this machine, SLURM, TPU VMs and GKE: the same `train` command, and the same sweeps."""
