"""What each region of a quantized network costs on the NPU, by precision, inside the whole network."""
