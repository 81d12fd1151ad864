"""Running a model on ONNX Runtime's CPU provider, exactly as its nodes say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hexpath_deploy.errors import UnreadableModelError
from hexpath_deploy.model import Model
from hexpath_deploy.reference.hexpath_reference import Array, Floats


def ort_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime, which share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OrtNetwork:
    """A model on ONNX Runtime with every graph optimization off: they change the numerics of QDQ graphs."""

    def __init__(self, model: Model, *, threads: int | None = None) -> None:
        """Open the model.

        Raises:
            UnreadableModelError: ONNX Runtime refuses it.
        """
        import onnxruntime as ort

        settings: Any = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.intra_op_num_threads = threads or available_cores()
        settings.log_severity_level = 3
        self.input = next(iter(model.inputs), "")
        try:
            self.session = ort.InferenceSession(str(model.path), settings, providers=["CPUExecutionProvider"])
        except ort_errors() as error:
            raise UnreadableModelError(
                f"ONNX Runtime {ort.__version__} refuses {model.path} ({str(error)[-300:]}): export it "
                "again, with "
                "an IR version and opset that this ONNX Runtime knows"
            ) from error
        self.names = [value.name for value in self.session.get_outputs()]

    def run(self, image: Floats) -> dict[str, Floats]:
        """Return the outputs by name for the one input, such as an image, float32 (1, 3, H, W) in [0, 1]."""
        return self.compute({self.input: image})

    def compute(self, feed: Mapping[str, Array]) -> dict[str, Floats]:
        """Return the outputs by name for every input by name."""
        return dict(zip(self.names, self.session.run(self.names, dict(feed)), strict=True))
