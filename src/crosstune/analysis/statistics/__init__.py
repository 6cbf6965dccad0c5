"""Tests, intervals and variances over paired predictions."""
