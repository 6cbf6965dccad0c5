"""Tasks of a user's own, from one YAML or Python file. May import `base`, `published`."""
