"""Scores of one answer, and the statistic of many, as pure functions. May import `languages`."""
