"""Tests, intervals and variances over paired predictions. May import `groups`, `transfer`, `predictions`."""
