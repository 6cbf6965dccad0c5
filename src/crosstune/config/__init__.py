"""YAML files and settings, with every mistake told as `file:line: what is wrong`. Imports errors alone."""
