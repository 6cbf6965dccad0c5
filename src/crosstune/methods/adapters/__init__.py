"""Methods that add small trained modules to frozen weights."""
