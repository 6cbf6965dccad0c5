"""Settings from outside: YAML with its lines, mistakes as `file:line: what is wrong`, environment variables.

May import `files`.
"""
