"""The command line: verbs that call the rooms below.

May import `api`, `planning`, `report`, `claims`, `running`, `study`, `methods`, `tasks`, `models`, `store`,
`data`, `languages`, `config`.
"""
