"""How many tokens go through the model at once. May import `attention`, `proof`, `protocol`."""
