"""Unlabelled text of a language, which language adapters are trained on. May import `data`, `languages`."""
