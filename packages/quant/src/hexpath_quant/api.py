"""Quantize any torch.nn.Module from a short script, without a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from hexpath_quant.errors import CalibrationError
from hexpath_quant.export import export
from hexpath_quant.methods import find_method
from hexpath_quant.mixed import apply_plan
from hexpath_quant.plans import AnyPlan, MixedPlan, parse_plan
from hexpath_quant.prepare import as_tuple, device_of, prepare
from hexpath_quant.regions import regions_of


def quantize(
    model: nn.Module,
    *,
    calibration: Sequence[Tensor],
    out: Path | str,
    plan: AnyPlan | str = "w8a8",
    method: str = "minmax",
    input_range: tuple[float, float] | None = (0.0, 1.0),
    input_name: str = "images",
    output_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Quantize ``model`` after training and write a folder with model.onnx (QDQ) and its proof.

    Args:
        model: float32, one tensor in, one or a tuple of tensors out; is not changed.
        calibration: batches, float32 (B, ...), as the model takes them; the first image fixes the shapes.
        out: folder: model.onnx, model.encodings, recorded.npz, quant.json.
        plan: a Plan, a MixedPlan, the path of a plan file, or a name such as ``w8a8`` or ``w4a8-per-tensor``.
        method: a name from ``METHODS``.
        input_range: what the input can hold; [0, 1] gives scale 1/255 at 8 bit. None: observe it.
        input_name, output_names: of the graph; outputs are output0, output1, ... by default.
        metadata: written into the ONNX as ``metadata_props``.

    Returns:
        SQNR in dB of each output: the file in onnxruntime against the simulation.

    Raises:
        QuantError: one of its subclasses, see ``hexpath_quant.errors``.
    """
    chosen, precision = find_method(method), parse_plan(plan) if isinstance(plan, str) else plan
    if not calibration:
        raise CalibrationError("the calibration set is empty; give at least one batch")
    example = calibration[0][:1].to(device_of(model))

    def batches() -> Iterator[Tensor]:
        return iter(calibration)

    prepared = prepare(model, example=example)
    count = len(as_tuple(prepared(example)))
    names = output_names or [f"output{index}" for index in range(count)]
    if isinstance(precision, MixedPlan):
        regions = regions_of(prepared, output_names=names, overrides=precision.modules)
        apply_plan(prepared, plan=precision, regions=regions)
    else:
        regions = regions_of(prepared, output_names=names)
    base = precision.base if isinstance(precision, MixedPlan) else precision
    sim = chosen.quantize(prepared, example=example, plan=base, batches=batches, input_range=input_range)
    sim.model.cpu()
    return export(
        sim,
        out=Path(out),
        example=example.cpu(),
        samples=calibration[0][:4].cpu(),
        input_names=[input_name],
        output_names=names,
        regions=regions,
        plan=precision,
        method=f"ptq:{method}",
        metadata=metadata or {},
        card={"calibration_images": sum(len(batch) for batch in calibration)},
    )
