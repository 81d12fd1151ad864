"""Segmentation networks written here from their papers, key by key as their authors name the weights."""
