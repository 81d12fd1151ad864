"""Semantic segmentation: networks that give each pixel a class, from weights to a task for a quantizer."""
