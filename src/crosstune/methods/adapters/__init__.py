"""Methods that add small trained modules to frozen weights. May import `base`, `config`, `deferred`."""
