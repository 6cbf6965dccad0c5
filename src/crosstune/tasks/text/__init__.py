"""Unlabelled text of a language, which parts of methods are trained on. May import `base`."""
