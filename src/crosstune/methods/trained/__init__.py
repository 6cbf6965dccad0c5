"""Methods that somebody trained before: folders of PEFT's, and runs of a store.

May import `adapters`, `prompts`, `base`, `config`, `deferred`.
"""
