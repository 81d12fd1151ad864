"""Bring an ONNX model to the Qualcomm Hexagon NPU: compile, emulate, prove, estimate, report."""

from __future__ import annotations

__version__ = "0.1.0"
