"""Tests, intervals and variances over paired predictions. May import `transfer`, `predictions`."""
