"""What looks on while a study runs: experiment trackers and the energy meter."""
