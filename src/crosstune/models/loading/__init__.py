"""From a name to a loaded model: hub, folders, demo models, devices, quantisation.

May import `attention`, `geometry`, `parts`, `language_model`, `tensor_file`.
"""
