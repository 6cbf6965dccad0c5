"""What a study will take before it is run. May import `running` (to time a step) and all below it."""
