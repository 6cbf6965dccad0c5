"""Published claims, and what a store's results say of them. May import `analysis`; never a model."""
