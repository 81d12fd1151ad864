"""A float ONNX file of a trained segmentation network, proven against the network that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..export import RECORDED_IMAGES, _float_outputs, _quiet, _save, _static_model, check
from ..files import atomic_folder
from .task import semantic


def export_semantic(
    *, checkpoint: Path, data: Path, out: Path, options: dict[str, str] | None = None
) -> tuple[Path, dict[str, tuple[int, ...]], float]:
    """Write the folder `out` with model.onnx and recorded.npz; return file, output shapes and deviation.

    The deviation is ONNX Runtime's largest from torch, relative to the output's range. Raises
    ExportMismatchError, and leaves nothing, when it is too large.
    """
    task: Any = semantic(checkpoint=checkpoint, data=data, options=options)
    images = task.samples(RECORDED_IMAGES)
    expected = _float_outputs(task.float_model(), images, names=task.output_names)
    with atomic_folder(out) as folder, _quiet():
        file = folder / "model.onnx"
        metadata = {**task.metadata, "hexpath.plan": "fp32", "hexpath.method": "fp32"}
        _save(_static_model(task, folder), file, metadata=metadata)
        deviation = check(file, images=images.numpy(), expected=expected)
        np.savez(folder / "recorded.npz", images=images.numpy(), **expected)
    shapes = {name: (1, *array.shape[1:]) for name, array in expected.items()}
    return out / "model.onnx", shapes, deviation
