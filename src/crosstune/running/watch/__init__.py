"""What follows a run from outside: experiment trackers and the energy meter.

Imports nothing of its neighbours.
"""
