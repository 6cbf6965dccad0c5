"""Published benchmarks, a file each. May import `base`, `published`, `prompts`."""
