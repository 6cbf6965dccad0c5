"""A study's runs, made one by one: load, attach, train, evaluate, store. Above it only what reads results."""
