"""From a name to a loaded model: hub, folders, demo models, devices, quantisation."""
