"""Detectors from a name to a trained checkpoint, a float ONNX file and a quantization task."""

from __future__ import annotations

__version__ = "0.1.0"
