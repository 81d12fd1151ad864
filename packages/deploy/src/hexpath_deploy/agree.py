"""Does the compiled artifact compute what the model computes, and the model what was simulated?

Two comparisons on recorded inputs: the emulated artifact against the QDQ model on
ONNX Runtime, and ONNX Runtime against the outputs that the exporting stage recorded.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import onnx

from hexpath_deploy.diagnose import diagnose, explain_encodings
from hexpath_deploy.errors import AgreementError, OptionError, StaleArtifactError
from hexpath_deploy.files import sha256_file, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.artifact import Artifact, open_artifact
from hexpath_deploy.hexagon.emulate import emulate, load_outputs
from hexpath_deploy.io import Encoding, quantize_io
from hexpath_deploy.model import Model, load_onnx, read_model
from hexpath_deploy.ort import OrtNetwork
from hexpath_deploy.reference.hexpath_reference import Array, Floats

Outputs: TypeAlias = Mapping[str, Floats]
# One example, (shape of the graph's input), or several joined along the first axis, by name.
Inputs: TypeAlias = Mapping[str, Array]
Doubles: TypeAlias = npt.NDArray[np.float64]

# Chosen by measurement (README, "Agreement"): 8-bit graphs of trained detectors agree at 33 dB and better,
# FP16 graphs at 48 dB; a swapped or wrongly scaled tensor falls below 10 dB.
MIN_SQNR_DB = {8: 20.0, 16: 30.0}
EIGHT_BITS = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
RECORDED = "recorded.npz"
PAIRS = {
    "artifact": ("the compiled artifact on the emulator", "the model on ONNX Runtime"),
    "recorded": ("the model on ONNX Runtime", "the recorded simulation"),
}


def agree(
    path: Path,
    *,
    compiled: Path,
    recorded: Path,
    out: Path,
    min_sqnr_db: float | None = None,
    limit: int | None = None,
    workers: int = 2,
    verdict_only: bool = False,
) -> dict[str, Any]:
    """Compare, write the figures to `out`, and return them; on the first `limit` examples, or all.

    Raises:
        AgreementError: an output of one comparison is beyond the tolerance; `out` is written all the same.
            Not with `verdict_only`.
        StaleArtifactError: the artifact or the recording belongs to another model.
        OptionError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"--examples {limit}: at least 1 is compared")
    began = time.monotonic()
    toolchain.require()
    model = read_model(path)
    artifact = open_artifact(compiled, model=model)
    examples, simulated = read_recorded(recorded, model=model, limit=limit)
    reference = run_ort(model, examples)
    emulated = run_emulator(artifact, examples, workers=workers)
    judge = Judge.of(load_onnx(path), least=min_sqnr_db)
    pairs = {"artifact": (reference, emulated), "recorded": (simulated, reference)}
    outputs = {name: judge.compare_all(*pair) for name, pair in pairs.items()}
    failures = [explain(name, row, path) for name, rows in outputs.items() for row in rows if not row["pass"]]
    cause = cause_of(model, examples=examples, pairs=pairs, judge=judge) if failures else ""
    record = {
        "schema": 1,
        "verdict": "fail" if failures else "pass",
        "images": len(examples),
        "comparisons": outputs,
        "model": str(path),
        "model_sha256": model.sha256,
        "artifact_sha256": artifact.card["binary_sha256"],
        "recorded_sha256": sha256_file(recorded),
        "seconds": round(time.monotonic() - began, 2),
        "tools": toolchain.versions(),
    }
    if cause:
        record["cause"] = cause
    write_json(out, record)
    if failures and not verdict_only:
        told = f"; cause: {cause}" if cause else ""
        raise AgreementError(
            f"{len(failures)} outputs disagree; {failures[0]}{told}; all figures are in {out}"
        )
    return record


def cause_of(
    model: Model,
    *,
    examples: Sequence[Inputs],
    pairs: Mapping[str, tuple[Outputs, Outputs]],
    judge: Judge,
) -> str:
    """Return why a pair disagrees, or an empty text.

    First, for a network of images, what makes ONNX Runtime's outputs agree with the other side, then
    encodings that cannot hold their values.
    """
    image = next(iter(model.inputs))

    def agrees(name: str, first: Floats, second: Floats) -> bool:
        return bool(judge.compare(second, first, name=name)["pass"])

    for name, (first, second) in pairs.items():
        ort, other = (first, second) if name == "artifact" else (second, first)
        cause = diagnose(
            ort,
            other,
            agrees=agrees,
            images=images_of(model, examples),
            run=lambda changed: run_ort(model, [{image: each[None]} for each in changed]),
        )
        if cause:
            return f"{PAIRS[name][0]} agrees with {PAIRS[name][1]} if one assumes that {cause}"
    return explain_encodings(load_onnx(model.path), examples) if model.quantized else ""


def images_of(model: Model, examples: Sequence[Inputs]) -> Floats | None:
    """Return the examples as images float32 (N, 3, H, W), or None when the network takes something else."""
    (shape, *others) = [entry.shape for entry in model.inputs.values()]
    if others or len(shape) != 4 or shape[:2] != (1, 3):
        return None
    return np.concatenate([array for example in examples for array in example.values()]).astype(np.float32)


def verify_pair(model: Model) -> None:
    """Hold the model against the `recorded.npz` beside it, if there is one, before anything is built on it.

    A disagreement whose cause is found is an error, one that nothing explains a warning: `agree` has the
    last word.

    Raises:
        AgreementError: names the cause.
        StaleArtifactError: the recording belongs to another model.
    """
    recorded = model.path.parent / RECORDED
    if not recorded.is_file():
        return
    examples, simulated = read_recorded(recorded, model=model)
    reference = run_ort(model, examples)
    judge = Judge.of(load_onnx(model.path))
    rows = judge.compare_all(simulated, reference)
    bad = [explain("recorded", row, model.path) for row in rows if not row["pass"]]
    if not bad:
        return
    pairs = {"recorded": (simulated, reference)}
    if cause := cause_of(model, examples=examples, pairs=pairs, judge=judge):
        raise AgreementError(f"{bad[0]}; cause: {cause}")
    print(f"hexpath-deploy: warning: {bad[0]}", file=sys.stderr)


def read_recorded(
    path: Path, *, model: Model, limit: int | None = None
) -> tuple[list[dict[str, Array]], dict[str, Floats]]:
    """Read recorded.npz: an array for each input and output, examples joined along the first axis.

    A network with one input may call it `images`. Returns the examples, the first `limit` or all, and their
    outputs by name.

    Raises:
        StaleArtifactError: it is missing or unreadable, lacks an array, or its shapes are another model's.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (FileNotFoundError, BadZipFile, ValueError, EOFError) as error:
        raise StaleArtifactError(
            f"{path} is no recording ({error!s:.200}): export {model.path} again"
        ) from error
    if len(model.inputs) == 1 and "images" in arrays:
        arrays = {next(iter(model.inputs)): arrays["images"], **arrays}
    missing = [name for name in (*model.inputs, *model.outputs) if name not in arrays]
    if missing:
        raise StaleArtifactError(
            f"{path} has no array '{missing[0]}': it was recorded from another model than {model.path}"
        )
    inputs = {name: split(arrays[name], name=name, path=path, model=model) for name in model.inputs}
    counts = {name: len(rows) for name, rows in inputs.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise StaleArtifactError(f"{path} holds examples of different number: {told}")
    examples = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
    kept = examples[:limit]
    outputs = {name: arrays[name].astype(np.float32) for name in model.outputs}
    return kept, {name: rows[: len(rows) * len(kept) // len(examples)] for name, rows in outputs.items()}


def split(array: Array, *, name: str, path: Path, model: Model) -> list[Array]:
    """Return the recorded examples of one input, each in the shape and type that the graph takes."""
    shape = model.inputs[name].shape
    if array.shape[1:] != shape[1:] or not len(array) or len(array) % shape[0]:
        raise StaleArtifactError(
            f"{path} holds {name} {list(array.shape)}, {model.path} takes {list(shape)}: give one "
            "example, or several joined along the first axis"
        )
    return list(array.astype(model.inputs[name].dtype).reshape(-1, *shape))


def run_ort(model: Model, examples: Sequence[Inputs]) -> dict[str, Floats]:
    """Return the model's outputs on ONNX Runtime, joined along the first axis."""
    network = OrtNetwork(model)
    return stack([network.compute(example) for example in examples])


def run_emulator(artifact: Artifact, examples: Sequence[Inputs], *, workers: int) -> dict[str, Floats]:
    """Return the artifact's outputs on the emulator, joined along the first axis."""
    feeds = {str(place): (lambda example=example: example) for place, example in enumerate(examples)}
    with tempfile.TemporaryDirectory(prefix="hexpath-") as work:
        emulate(artifact, feeds=feeds, work=Path(work), workers=workers)
        return stack([load_outputs(Path(work), key, boundary=artifact.boundary) for key in feeds])


def stack(rows: list[dict[str, Floats]]) -> dict[str, Floats]:
    """Join outputs along the first axis; a number becomes a vector."""
    return {name: np.concatenate([np.atleast_1d(row[name]) for row in rows]) for name in rows[0]}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What each output of a graph is held to.

    limits: the least SQNR in dB. encodings: of the outputs that are quantized.
    """

    limits: Mapping[str, float]
    encodings: Mapping[str, Encoding]

    @classmethod
    def of(cls, proto: onnx.ModelProto, *, least: float | None = None) -> Judge:
        """Of a graph's outputs; `least` in place of the limits by bits."""
        limits = {name: MIN_SQNR_DB[bits] for name, bits in narrowest_bits(proto).items()}
        limits = limits if least is None else dict.fromkeys(limits, least)
        return cls(limits=limits, encodings=quantize_io(proto).outputs)

    def compare_all(self, reference: Outputs, other: Outputs) -> list[dict[str, Any]]:
        """Compare output by output."""
        return [self.compare(reference[name], other[name], name=name) for name in reference]

    def compare(self, reference: Floats, other: Floats, *, name: str) -> dict[str, Any]:
        """Return SQNR in dB, cosine, the largest difference in the output's unit and in steps of its scale.

        SQNR = 10 log10(sum(reference^2) / sum((reference - other)^2)); absent when both are identical.
        """
        row: dict[str, Any] = {"name": name, "min_sqnr_db": self.limits[name]}
        if np.atleast_1d(reference).shape != np.atleast_1d(other).shape:
            shapes = f"shapes {list(reference.shape)} and {list(other.shape)}"
            return row | {"pass": False, "problem": shapes}
        if not (np.isfinite(reference).all() and np.isfinite(other).all()):
            return row | {"pass": False, "problem": "holds NaN or infinity"}
        first, second = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        sqnr_db, largest = sqnr(first, second), float(np.abs(first - second).max())
        row |= {"cosine": cosine(first, second), "max_abs": largest}
        if name in self.encodings:
            row["max_steps"] = largest / self.encodings[name].scale
        if math.isfinite(sqnr_db):
            row["sqnr_db"] = sqnr_db
        return row | {"pass": sqnr_db >= self.limits[name]}


def narrowest_bits(proto: onnx.ModelProto) -> dict[str, int]:
    """Return for each output 8 or 16: the bits of the narrowest activation that it is computed from.

    A 16-bit branch behind 8-bit layers inherits their rounding: where a value falls between two steps, the
    NPU may take the other one. Inputs and constants do not count, they are the same on both sides.
    """
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    bits: dict[str, int] = {}
    for node in proto.graph.node:
        least = min((bits[name] for name in node.input if name in bits), default=16)
        if node.op_type == "QuantizeLinear" and node.input[0] in bits and len(node.input) > 2:
            least = min(least, 8 if types.get(node.input[2]) in EIGHT_BITS else 16)
        bits |= dict.fromkeys(node.output, least)
    return {value.name: bits.get(value.name, 16) for value in proto.graph.output}


def sqnr(reference: Doubles, other: Doubles) -> float:
    """Return the signal to quantization noise ratio in dB; infinite when identical."""
    signal, noise = float((reference**2).sum()), float(((reference - other) ** 2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(max(signal, 1e-30) / noise)


def cosine(first: Doubles, second: Doubles) -> float:
    """Return the cosine of the angle between two vectors; 1 for two zero vectors."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else float(np.array_equal(first, second))


def explain(pair: str, row: Mapping[str, Any], path: Path) -> str:
    """Return one line on an output that disagrees."""
    one, other = PAIRS[pair]
    figure = row.get("problem") or f"{row['sqnr_db']:.1f} dB SQNR, {row['min_sqnr_db']:.1f} needed"
    hint = (
        "an operator is computed differently on the NPU, or the network amplifies single roundings"
        if pair == "artifact"
        else "the export changed an encoding, the outputs are in another order than recorded, or the network "
        "amplifies single roundings"
    )
    return f"output '{row['name']}' of {path}: {one} against {other}: {figure} ({hint})"
