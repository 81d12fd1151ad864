"""Estimating networks whose latency is published, and holding the two side by side."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from hexpath_deploy.errors import CompileError, OptionError
from hexpath_deploy.fidelity.measured import complete
from hexpath_deploy.fidelity.published import Published, figures
from hexpath_deploy.files import sha256_file
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.cost import Compiler, Cost
from hexpath_deploy.hexagon.options import FLOAT, OPTIMIZATIONS, QUANTIZED
from hexpath_deploy.model import load_onnx
from hexpath_deploy.progress import Progress
from hexpath_deploy.targets import estimated_by, target

SOURCE = (
    "Estimates of Qualcomm's compiler, batch 1, against the latencies that Qualcomm AI Hub Models publishes "
    "for the same network; QCS8550 and QCS8275 have no estimate of their own and are compared with IQ-9075's"
)
CAVEAT = (
    "Published figures vary by about 10% from release to release and were made with other QAIRT versions and "
    "other exports of the same networks. The estimate covers the network alone, at full clocks and without "
    "other load: no pre- or postprocessing. Compared with float tensors at the graph's border, random weights"
)
SIXTEEN = (onnx.TensorProto.UINT16, onnx.TensorProto.INT16)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model file that claims to be a published network at a precision."""

    network: str
    precision: str
    path: Path

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.network}-{self.precision}"


def parse_candidates(given: Sequence[str], *, folder: Path | None) -> list[Candidate]:
    """Read NETWORK-PRECISION=FILE, and the files NETWORK-PRECISION.onnx of a folder.

    Raises:
        OptionError: the text has another form, or a folder holds no such file.
    """
    found = []
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "-" not in name:
            raise OptionError(
                f"--model '{text}': expected NETWORK-PRECISION=FILE, as yolo11n-640-w8a8=m.onnx"
            )
        found.append(candidate(name, Path(path)))
    paths = sorted(folder.glob("*-*.onnx")) if folder is not None else []
    if folder is not None and not paths:
        raise OptionError(f"--models {folder} holds no file such as yolo11n-640-w8a8.onnx")
    return [*found, *(candidate(path.stem, path) for path in paths)]


def candidate(name: str, path: Path) -> Candidate:
    """Split a name at its last dash."""
    network, _, precision = name.rpartition("-")
    return Candidate(network=network, precision=precision, path=path)


def compare(
    candidates: Sequence[Candidate], *, targets: Sequence[str], cache: Path, limit_s: float
) -> dict[str, Any]:
    """Estimate each candidate and return the comparison with everything that is published for it.

    Raises:
        OptionError: nothing is published for one, or it is not at the precision that its name says.
        CompileError: the compiler refused all of them; else as compiling.
    """
    began = time.monotonic()
    names = tuple(target(name).name for name in targets)
    known = {
        each: figures(network=each.network, precision=each.precision, targets=names) for each in candidates
    }
    toolchain.require()
    progress, rows = Progress("estimates"), []
    for done, (each, published) in enumerate(known.items(), start=1):
        check_precision(each)
        compiler = Compiler(target=target(names[0]), cache=cache, subject=each.path, limit_s=limit_s)
        rows += rows_of(each, published, compiler=compiler)
        progress(done, len(candidates))
    if not any("estimate" in found for found in rows):
        told = "; ".join(
            f"{row['network']} at {row['precision']}: {row['refused'][0]['why']}" for row in rows
        )
        raise CompileError(f"nothing compiles, so that nothing is compared: {told}")
    return {
        "schema": 1,
        "source": SOURCE,
        "caveat": CAVEAT,
        "rows": rows,
        "by_precision": by_precision(rows),
        "tools": toolchain.versions(),
        "seconds": round(time.monotonic() - began, 1),
    }


def check_precision(each: Candidate) -> None:
    """Refuse a file that is not at the precision that its name says."""
    proto = load_onnx(each.path)
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    bits = Counter(
        16 if kinds.get(node.input[2]) in SIXTEEN else 8
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and len(node.input) > 2
    )
    found = "fp16" if not bits else f"a{bits.most_common(1)[0][0]}"
    if not each.precision.endswith(found):
        held = "holds no QuantizeLinear" if not bits else f"quantizes most tensors to {found[1:]} bits"
        raise OptionError(f"{each.path} {held}, but is given as {each.precision}: name it by what it is")


def rows_of(each: Candidate, published: Iterable[Published], *, compiler: Compiler) -> list[dict[str, Any]]:
    """Return one row for each target that stands for published ones: its estimate, and those figures."""
    by_target: dict[str, list[Published]] = {}
    for figure in published:
        by_target.setdefault(estimated_by(target(figure.target)).name, []).append(figure)
    return [
        row(each, found, compiler=replace(compiler, target=target(name))) for name, found in by_target.items()
    ]


def row(each: Candidate, published: Sequence[Published], *, compiler: Compiler) -> dict[str, Any]:
    """Estimate on one target and compare; what does not compile is `refused`, without an estimate."""
    found, refused = estimate(each, compiler=replace(compiler, io=FLOAT))
    entry: dict[str, Any] = {
        "network": each.network,
        "precision": each.precision,
        "model_sha256": sha256_file(each.path),
    }
    if refused:
        entry["refused"] = refused
    if found is None:
        return entry | {"published": [figure.as_dict() for figure in published]}
    entry["estimate"] = {"target": compiler.target.name, "io": FLOAT, **found.as_dict()}
    if each.precision != "fp16":
        quantized, _ = estimate(each, compiler=replace(compiler, io=QUANTIZED))
        if quantized is not None:
            entry["quantized_io"] = quantized.as_dict()
    return entry | {
        "published": [
            {**figure.as_dict(), "error": round(found.ms / figure.ms - 1, 4)} for figure in published
        ]
    }


def estimate(each: Candidate, *, compiler: Compiler) -> tuple[Cost | None, list[dict[str, Any]]]:
    """Return the estimate of one model, or None, and what stood in the way.

    Where the compiler crashes, it gets the model again with less optimization.
    """
    refused: list[dict[str, Any]] = []
    for level in sorted(OPTIMIZATIONS, reverse=True):
        cost = replace(compiler, optimization=level).cost(load_onnx(each.path), fp16=each.precision == "fp16")
        if isinstance(cost, Cost):
            return cost, refused
        refused.append({"optimization": level, "why": cost.why})
        if not cost.crashed:
            break
    return None, refused


def by_precision(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by precision what the errors of complete rows say, over all devices and for each one."""
    errors: dict[str, dict[str, list[float]]] = {}
    for entry in filter(complete, rows):
        found = errors.setdefault(entry["precision"], {})
        for figure in entry["published"]:
            found.setdefault(figure["target"], []).append(figure["error"])
    return {
        precision: {
            **spread([error for values in found.values() for error in values]),
            "by_target": {name: spread(values) for name, values in found.items()},
        }
        for precision, found in errors.items()
    }


def spread(errors: Sequence[float]) -> dict[str, Any]:
    """Return how many errors there are, the lowest, median and highest, and the mean size."""
    return {
        "cases": len(errors),
        "low": min(errors),
        "median": round(statistics.median(errors), 4),
        "high": max(errors),
        "mean_size": round(statistics.fmean(abs(error) for error in errors), 4),
    }
