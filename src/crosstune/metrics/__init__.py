"""Scores of one answer, as pure functions of text."""
