"""Which layers, regions and classes suffer from quantization."""
