"""From a name to a loaded model: hub, folders, demo models, devices, quantisation.

May import `adaptation`, `attention`, `encoder_decoder`, `family`, `geometry`, `language_model`, `parts`,
`tensor_file`.
"""
