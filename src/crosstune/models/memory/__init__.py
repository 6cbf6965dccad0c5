"""How much goes through the model at once."""
