"""Scoring: choices, free answers, all languages with one load."""
