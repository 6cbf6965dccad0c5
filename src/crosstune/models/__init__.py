"""Models: loading, geometry, and the attention hook."""
