"""What the predictions say: pure functions from settings and predictions to tables, without a model."""
