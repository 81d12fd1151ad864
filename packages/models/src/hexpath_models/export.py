"""Float ONNX files of a trained network, each proven against the network that it came from."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import load_checkpoint
from .environment import offline
from .errors import ExportMismatchError
from .files import atomic_folder
from .prepare import Head
from .tasks import DetectionTask, yolo

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

OPSET = 21  # 16-bit and 4-bit QDQ need it, and a quantized file is compared with this one
RECORDED_IMAGES = 4
TOLERANCE = 1e-4  # of the largest absolute value of the output


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written; `deviation` is ONNX Runtime's largest from torch, relative to the output's range."""

    path: Path
    head: Head
    outputs: dict[str, tuple[int, ...]]
    deviation: float


def export(
    *, checkpoint: Path, data: Path, head: Head, out: Path, size: str = "", branch: str = ""
) -> Exported:
    """Write the folder `out` with model.onnx and recorded.npz.

    branch: one-to-one or one-to-many, of a head that has both (see heads.choose_branch for the default).

    `raw` and `decoded` are written from the prepared network; `plain` by Ultralytics' own exporter.
    Raises ExportMismatchError, and leaves nothing, when ONNX Runtime computes something else than torch.
    """
    chosen = {"imgsz": size, "branch": branch}
    options = {"head": str(head), **{name: value for name, value in chosen.items() if value}}
    task = yolo(checkpoint=checkpoint, data=data, options=options)
    images = task.samples(RECORDED_IMAGES)
    expected = _float_outputs(task.float_model(), images, names=task.output_names)
    with atomic_folder(out) as folder, _quiet():
        model = _plain_model(checkpoint, task, folder) if head is Head.PLAIN else _static_model(task, folder)
        file = folder / "model.onnx"
        _save(model, file, metadata={**task.metadata, "hexpath.plan": "fp32", "hexpath.method": "fp32"})
        deviation = check(file, images=images.numpy(), expected=expected)
        np.savez(folder / "recorded.npz", images=images.numpy(), **expected)
    shapes = {name: (1, *array.shape[1:]) for name, array in expected.items()}
    return Exported(path=out / "model.onnx", head=head, outputs=shapes, deviation=deviation)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings about the TorchScript exporter: it is chosen, and its result is checked."""
    from torch.jit import TracerWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        yield


def _float_outputs(network: nn.Module, images: Tensor, *, names: tuple[str, ...]) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        outputs = network(images)
    return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}


def _static_model(task: DetectionTask, folder: Path) -> onnx.ModelProto:
    """Export with the TorchScript exporter: it folds BatchNorm and needs no further package."""
    import onnx
    import onnxslim
    import torch
    from onnx import version_converter

    file = folder / "traced.onnx"
    torch.onnx.export(
        task.float_model().cpu(),
        (task.example.cpu(),),
        str(file),
        dynamo=False,
        opset_version=20,  # the highest that this exporter writes
        input_names=list(task.input_names),
        output_names=list(task.output_names),
    )
    model = version_converter.convert_version(onnx.load(file), OPSET)
    file.unlink()
    slim: onnx.ModelProto = onnxslim.slim(model)
    return slim


def _plain_model(checkpoint: Path, task: DetectionTask, folder: Path) -> onnx.ModelProto:
    """Export as `yolo export format=onnx` does."""
    import onnx

    offline()
    from ultralytics.engine.exporter import Exporter

    model, _ = load_checkpoint(checkpoint)
    detector: Any = model
    detector.task, detector.pt_path = task.card.task, str(folder / "plain" / "model.pt")
    (folder / "plain").mkdir()
    arguments = {"format": "onnx", "imgsz": list(task.size), "batch": 1, "device": "cpu", "verbose": False}
    exporter = Exporter(overrides=arguments)
    result = onnx.load(exporter(model=detector))
    shutil.rmtree(folder / "plain")
    return result


def _save(model: onnx.ModelProto, file: Path, *, metadata: dict[str, str]) -> None:
    import onnx

    merged = {**{entry.key: entry.value for entry in model.metadata_props}, **metadata}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, merged)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def check(file: Path, *, images: Any, expected: dict[str, Any]) -> float:
    """Run the file in ONNX Runtime and return the largest deviation from `expected`, relative to its range.

    images: float32 (N, 3, H, W); expected: one array a tensor, stacked over N. Raises ExportMismatchError.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    runs = [session.run(names, {"images": image[None]}) for image in images]
    worst = 0.0
    for index, name in enumerate(names):
        if name not in expected:
            raise ExportMismatchError(f"{file.name} has the output {name!r}, expected {', '.join(expected)}")
        found = np.concatenate([run[index] for run in runs])
        deviation = float(np.abs(found - expected[name]).max() / max(np.abs(expected[name]).max(), 1.0))
        if not deviation <= TOLERANCE:
            raise ExportMismatchError(
                f"{file.name}: output {name!r} differs from torch by {deviation:.2g} of its range, "
                f"allowed are {TOLERANCE:g}; the exporter changed the network"
            )
        worst = max(worst, deviation)
    return worst
