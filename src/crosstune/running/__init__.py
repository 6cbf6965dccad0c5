"""A study's runs, one by one: load, attach, train, evaluate, store.

May import `study`, `training`, `outputs`, `methods`, `tasks`, `data`, `models`, `metrics`, `store`,
`languages`, `config`.
"""
