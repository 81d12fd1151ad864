"""Quantize a PyTorch model for Hexagon: PTQ, QAT, QDQ ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hexpath_quant.api import quantize
    from hexpath_quant.plans import PLANS, MixedPlan, Plan, parse_plan
    from hexpath_quant.task import Task

__version__ = "0.1.0"
__all__ = ["PLANS", "MixedPlan", "Plan", "Task", "__version__", "parse_plan", "quantize"]

_HOMES = {
    "quantize": "api",
    "PLANS": "plans",
    "MixedPlan": "plans",
    "Plan": "plans",
    "parse_plan": "plans",
    "Task": "task",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``--help`` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hexpath_quant' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"hexpath_quant.{_HOMES[name]}"), name)
