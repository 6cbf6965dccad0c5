"""How a run that was stopped goes on: locks, checkpoints, what was tried before."""
