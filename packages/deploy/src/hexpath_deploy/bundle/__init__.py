"""Bundles: all that goes to the device, with its proof, in one folder and one zip."""
