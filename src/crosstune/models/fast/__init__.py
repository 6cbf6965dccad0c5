"""Faster ways to the same numbers, each proved against the plain way before it is used."""
