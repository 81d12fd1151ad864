"""Write a calibrated or trained simulation as QDQ ONNX, with everything that proves it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aimet_torch.onnx
import numpy as np
import onnx
import torch
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.utils import disable_all_quantizers
from numpy.typing import NDArray
from torch import Tensor

from hexpath_quant.agreement import check_agreement
from hexpath_quant.biases import derived_biases
from hexpath_quant.errors import ExportError
from hexpath_quant.files import atomic_folder
from hexpath_quant.folding import absorb_relus, fix_output_shapes, fold
from hexpath_quant.mixed import float_nodes
from hexpath_quant.plans import AnyPlan, MixedPlan
from hexpath_quant.qdq import check_graph
from hexpath_quant.regions import KEY, onnx_regions, regions_of, regions_of_nodes
from hexpath_quant.sim import forward_of
from hexpath_quant.static import named_operators, operator_of, static_shapes
from hexpath_quant.workarounds import (
    pools_to_depthwise,
    separate_silu,
    signed_second_operands,
    widen_depthwise,
)

OPSET = 21  # the first with 4-bit and 16-bit QuantizeLinear
TOOLS = ("torch", "aimet-torch", "onnx", "onnxruntime")


def export(
    sim: QuantizationSimModel,
    *,
    out: Path,
    example: Tensor,
    samples: Tensor,
    input_names: Sequence[str],
    output_names: Sequence[str],
    plan: AnyPlan,
    method: str,
    metadata: Mapping[str, str],
    card: Mapping[str, Any],
    extra_files: Mapping[str, bytes] | None = None,
    regions: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Write folder ``out``: model.onnx, model.encodings, recorded.npz, quant.json.

    Args:
        sim: calibrated.
        out: replaced when everything in it is checked.
        example: float32 (1, 3, H, W); fixes the shapes.
        samples: float32 (N, 3, H, W) validation images for the recorded pair.
        input_names, output_names: of the graph.
        plan, method: written as ``hexpath.plan`` and ``hexpath.method``.
        metadata: further ``metadata_props``.
        card: what else quant.json shall hold.
        extra_files: further files of the folder, by name.
        regions: region -> module prefixes, written as ``hexpath.regions``; derived from the net when None.

    Returns:
        SQNR in dB of each output, file against simulation.

    Raises:
        ExportError: the graph has a float island, a dynamic shape, a wrong bias scale or count of outputs.
        AgreementError: the file and the simulation differ.
        DiskFullError: no space left.
    """
    sim.model.eval()
    parts = regions if regions is not None else regions_of(sim.model, output_names=output_names)
    owner = regions_of_nodes(sim.model.graph, regions=parts)
    with (
        atomic_folder(out) as folder,
        static_shapes(sim.model, example=example),
        named_operators(sim.model),
    ):
        path = folder / "model.onnx"
        with derived_biases(sim.model):
            write_qdq(sim, path=path, example=example, input_names=input_names, output_names=output_names)
            recorded = record(sim, samples=samples, output_names=output_names)
        with disable_all_quantizers(sim.model):
            unrounded = record(sim, samples=samples, output_names=output_names)
        apply_workarounds(path)
        floats = float_nodes(sim.model.graph)
        model = check_graph(
            path, floats=[n.name for n in onnx.load(path).graph.node if operator_of(n.name) in floats]
        )
        own = {"hexpath.plan": plan.name, "hexpath.method": method}
        own[KEY] = json.dumps(onnx_regions(model, owner=owner))
        if isinstance(plan, MixedPlan):
            own["hexpath.plan_regions"] = json.dumps(plan.precisions(parts))
        _write_metadata(model, path=path, metadata={**metadata, **own})
        write_encodings(
            sim, path=folder / "model.encodings", example=example, names=(input_names, output_names)
        )
        np.savez_compressed(folder / "recorded.npz", **recorded)  # type: ignore[arg-type]
        figures = check_agreement(path, recorded=recorded, unrounded=unrounded)
        for name, data in (extra_files or {}).items():
            (folder / name).write_bytes(data)
        text = {"schema": 1, "plan": plan.name, "method": method, **card, "sqnr_db": _rounded(figures)}
        (folder / "quant.json").write_text(json.dumps({**text, "tools": tool_versions()}, indent=1) + "\n")
    return figures


def write_qdq(
    sim: QuantizationSimModel,
    *,
    path: Path,
    example: Tensor,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    """Write the QDQ ONNX by AIMET's exporter, opset 21, static shapes."""
    outputs = len(forward_of(sim.model)(example))
    if outputs != len(output_names):
        raise ExportError(f"the model has {outputs} outputs, {len(output_names)} names are given")
    with _quiet():
        aimet_torch.onnx.export(
            sim,
            (example,),
            str(path),
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=OPSET,
            dynamo=False,
        )


def apply_workarounds(path: Path) -> None:
    """Fold what is constant, and change the graph where the compiler is known to be wrong."""
    model = onnx.load(path)
    folded = fold(model)
    if folded:
        fix_output_shapes(model)
    absorbed = absorb_relus(model)
    repairs = (separate_silu, widen_depthwise, pools_to_depthwise, signed_second_operands)
    changed = sum(repair(model) for repair in repairs)
    if changed or folded or absorbed:
        onnx.save(model, path)


def write_encodings(
    sim: QuantizationSimModel, *, path: Path, example: Tensor, names: tuple[Sequence[str], Sequence[str]]
) -> None:
    """Write AIMET's encodings JSON (for the QAIRT tools); tensor names are those of the float graph."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        target = Path(folder) / "model.onnx"
        sim.onnx.export(
            (example,),
            str(target),
            input_names=list(names[0]),
            output_names=list(names[1]),
            opset_version=17,
            dynamo=False,
        )
        shutil.move(str(target.with_suffix(".encodings")), path)


def record(
    sim: QuantizationSimModel, *, samples: Tensor, output_names: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Return ``images`` and the simulation's outputs, float32, stacked over the samples."""
    rows = [forward_of(sim.model)(image[None]) for image in samples]
    outputs = {name: torch.cat([row[i] for row in rows]).cpu().numpy() for i, name in enumerate(output_names)}
    return {"images": samples.cpu().numpy(), **outputs}


def tool_versions() -> dict[str, str]:
    """Return the versions of the tools that shape the result."""
    return {name: version(name) for name in TOOLS}


def _write_metadata(model: onnx.ModelProto, *, path: Path, metadata: Mapping[str, str]) -> None:
    kept = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, **{key: str(value) for key, value in metadata.items()}})
    onnx.save(model, path)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(figure, 2) for name, figure in figures.items()}


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporters' warnings and prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
