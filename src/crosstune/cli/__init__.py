"""The command line: verbs that call the rooms below.

May import `api`, `exporting`, `planning`, `report`, `claims`, `running`, `study`, `methods`, `tasks`,
`models`, `store`, `data`, `languages`, `config`.
"""
