"""Compiling and estimating on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import onnx

from hexpath_deploy.errors import CompileError, EstimateError, UnsupportedOperatorError
from hexpath_deploy.files import atomic_folder, sha256_file, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.cache import JobCache, Kept, key_of, timed
from hexpath_deploy.hexagon.census import float_islands, read_census
from hexpath_deploy.hexagon.estimate import Estimate, read_estimate
from hexpath_deploy.hexagon.job import Job, run_job
from hexpath_deploy.hexagon.options import FLOAT, QUANTIZED, Options, prepare, provider_options
from hexpath_deploy.hexagon.precision import check_precision, warn_narrowed
from hexpath_deploy.io import Boundary, set_metadata
from hexpath_deploy.model import Model, load_onnx
from hexpath_deploy.targets import Target

CONTEXT, BINARY, DLC, CARD, GRAPH = (
    "model_ctx.onnx",
    "model_ctx.bin",
    "model.dlc",
    "compile.json",
    "graph.json",
)
LIMIT_S = 1800.0
EXPLAIN = "explain"
COMPARE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """A scratch folder with the prepared model, and what stays the same over its jobs.

    `done` says of each job what it took, and whether it came out of the cache.
    """

    model: Model
    target: Target
    options: Options
    scratch: Path
    limit_s: float
    cache: JobCache | None
    done: dict[str, Kept] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(
        cls, model: Model, *, target: Target, options: Options, limit_s: float, cache: JobCache | None
    ) -> Iterator[tuple[Workbench, Boundary]]:
        """Yield one with the model prepared, and the model's border; the folder goes when the block ends."""
        with tempfile.TemporaryDirectory(prefix="hexpath-") as folder:
            scratch = Path(folder)
            boundary = prepare(model, options=options, path=scratch / "model.onnx")
            bench = cls(
                model=model, target=target, options=options, scratch=scratch, limit_s=limit_s, cache=cache
            )
            yield bench, boundary

    def run(self, job: str) -> Path:
        """Run one job of the worker on the prepared model in a folder of its own; returns that folder."""
        folder = self.scratch / job
        folder.mkdir()
        request = {"job": job, "options": provider_options(self.options, soc_model=self.target.soc_model)}

        def make() -> None:
            self.start(request, folder=folder)

        if self.cache is None or job == EXPLAIN:
            self.done[job] = timed(make)
        else:
            key = key_of(self.scratch, request=request)
            inputs = [path.name for path in self.scratch.iterdir() if path.is_file()]
            self.done[job] = self.cache.get_or_make(key, folder, make=make, inputs=inputs)
        return folder

    def start(self, request: Mapping[str, Any], *, folder: Path) -> None:
        """Let the worker do a job in `folder`."""
        for path in self.scratch.iterdir():
            if path.is_file():
                (folder / path.name).hardlink_to(path)
        try:
            run_job(Job(request=request, scratch=folder, subject=self.model.path), limit_s=self.limit_s)
        except UnsupportedOperatorError:
            if request["job"] != EXPLAIN:
                self.run(EXPLAIN)  # raises the same with reasons
            raise


def compile_model(
    model: Model,
    *,
    target: Target,
    options: Options,
    out: Path,
    limit_s: float = LIMIT_S,
    cache: JobCache | None = None,
) -> dict[str, Any]:
    """Compile a model to a context binary and a DLC in the folder `out`; returns the card, compile.json.

    Every operator is on the NPU afterwards: there is no fallback. With a `cache` nothing is compiled twice.

    Raises:
        ToolchainMissingError, UnsupportedOperatorError, CompileError, ToolchainCrashError,
        ToolchainTimeoutError.
    """
    toolchain.require()
    with atomic_folder(out) as folder:
        return build(model, target=target, options=options, folder=folder, limit_s=limit_s, cache=cache)


def compile_for_all(
    model: Model,
    *,
    targets: Sequence[Target],
    options: Options,
    out: Path,
    limit_s: float = LIMIT_S,
    cache: JobCache | None = None,
) -> dict[str, dict[str, Any]]:
    """Compile a model for several targets, each in a folder of its name in `out`; returns the cards by name.

    The DLC is one for all of them, `out`/model.dlc: it holds the network before it is compiled for a chip.

    Raises:
        As compile_model; then nothing is written, for no target.
    """
    toolchain.require()
    cards: dict[str, dict[str, Any]] = {}
    with atomic_folder(out) as folder:
        for target in targets:
            place = folder / target.name
            place.mkdir()
            shared = folder / DLC if cards else None
            cards[target.name] = build(
                model,
                target=target,
                options=options,
                folder=place,
                limit_s=limit_s,
                cache=cache,
                dlc=shared,
            )
            if shared is None:
                (place / DLC).replace(folder / DLC)
            cards[target.name]["dlc"] = f"../{DLC}"
            write_json(place / CARD, cards[target.name])
    return cards


def build(
    model: Model,
    *,
    target: Target,
    options: Options,
    folder: Path,
    limit_s: float,
    cache: JobCache | None,
    dlc: Path | None = None,
) -> dict[str, Any]:
    """Compile into `folder`; a `dlc` that is there already is not written again. Returns the card."""
    began = time.monotonic()
    opened = Workbench.opened(model, target=target, options=options, limit_s=limit_s, cache=cache)
    with opened as (bench, boundary):
        made = bench.run("context")
        keep_context(made, model=model, boundary=boundary, folder=folder)
        if dlc is None:
            dlc = keep_dlc(bench.run("dlc"), model=model, folder=folder)
        ops = read_census(made / "graph")
        found = check_precision(folder / GRAPH, proto=load_onnx(model.path))
        warn_narrowed(found, path=model.path)
        seconds = time.monotonic() - began
        card = card_of(bench, ops=ops, boundary=boundary, folder=folder, dlc=dlc, seconds=seconds)
        card |= {"narrowed": found, **estimates_of(bench, made=made)}
        write_json(folder / CARD, card)
    return card


def estimates_of(bench: Workbench, *, made: Path) -> dict[str, Any]:
    """Return the compiler's estimates by kind of I/O, where it gives any for this SoC model.

    That of what was compiled is a by-product. A quantized border is held against a float one, unless
    compiling took more than `COMPARE_S`.
    """
    options = bench.options
    try:
        found = {options.io: read_estimate(made / "profile.csv")}
    except (EstimateError, FileNotFoundError):
        return {}
    if options.io == QUANTIZED and bench.done["context"].seconds < COMPARE_S:
        found[FLOAT] = estimate_model(
            bench.model,
            target=bench.target,
            options=replace(options, io=FLOAT),
            limit_s=bench.limit_s,
            cache=bench.cache,
        )
    return {"estimates": {io: brief(each) for io, each in found.items()}}


def brief(found: Estimate) -> dict[str, Any]:
    """Return what compile.json says of an estimate; the whole of it is the work of `profile`."""
    return {
        "source": "estimate",
        "value_ms": found.value_ms,
        "low_ms": found.low_ms,
        "high_ms": found.high_ms,
        "missing_ops": found.missing_ops,
        "ddr_mb": found.ddr_mb,
        "spill_mb": found.spill_mb,
    }


def keep_context(made: Path, *, model: Model, boundary: Boundary, folder: Path) -> None:
    """Move the context into the output folder, with the model's metadata in the ONNX that wraps it."""
    wrapper = onnx.load(made / "context.onnx", load_external_data=False)
    binaries = [
        (node, attribute)
        for node in wrapper.graph.node
        for attribute in node.attribute
        if attribute.name == "ep_cache_context"
    ]
    if len(wrapper.graph.node) != 1 or len(binaries) != 1:
        kinds = ", ".join(node.op_type for node in wrapper.graph.node)
        raise CompileError(
            f"{model.path} became {len(wrapper.graph.node)} partitions ({kinds:.200}), expected one"
        )
    copyfile(made / binaries[0][1].s.decode(), folder / BINARY)
    binaries[0][1].s = BINARY.encode()
    set_metadata(
        wrapper,
        {
            **model.metadata,
            **({"hexpath.boundary": boundary.to_json()} if boundary else {}),
            "hexpath.source_sha256": model.sha256,
        },
    )
    onnx.save(wrapper, folder / CONTEXT)
    graphs = [path for path in (made / "graph").glob("*.json") if not path.name.endswith("_tensor_log.json")]
    copyfile(graphs[0], folder / GRAPH)


def keep_dlc(made: Path, *, model: Model, folder: Path) -> Path:
    """Move the DLC into the output folder; returns where it lies then."""
    found = sorted((made / "dlc").glob("*.dlc"))
    if len(found) != 1:
        raise CompileError(f"Qualcomm's DLC writer wrote {len(found)} files for {model.path}, expected one")
    copyfile(found[0], folder / DLC)
    return folder / DLC


def card_of(
    bench: Workbench,
    *,
    ops: list[dict[str, Any]],
    boundary: Boundary,
    folder: Path,
    dlc: Path,
    seconds: float,
) -> dict[str, Any]:
    """Return what compile.json says."""
    return {
        "schema": 1,
        "target": bench.target.name,
        "soc_model": bench.target.soc_model,
        "model": str(bench.model.path),
        "model_sha256": bench.model.sha256,
        "context": CONTEXT,
        "binary": BINARY,
        "binary_sha256": sha256_file(folder / BINARY),
        "dlc": DLC,
        "dlc_sha256": sha256_file(dlc),
        "options": bench.options.as_dict(),
        "boundary": {"inputs": sorted(boundary.inputs), "outputs": sorted(boundary.outputs)},
        "npu_ops": sum(row["count"] for row in ops),
        "cpu_ops": 0,
        "float_ops": float_islands(ops),
        "ops": ops,
        "size_mb": (folder / BINARY).stat().st_size / 1e6,
        "dlc_mb": dlc.stat().st_size / 1e6,
        "seconds": round(seconds, 3),
        "from_cache": sorted(job for job, kept in bench.done.items() if kept.cached),
        "compiler_seconds": round(sum(kept.seconds for kept in bench.done.values()), 3),
        "tools": toolchain.versions(),
    }


def estimate_model(
    model: Model,
    *,
    target: Target,
    options: Options,
    limit_s: float = LIMIT_S,
    cache: JobCache | None = None,
) -> Estimate:
    """Return Qualcomm's latency estimate of one inference on `target`, which must have one.

    Raises:
        EstimateError: the target has none; else as compile_model.
    """
    toolchain.require()
    opened = Workbench.opened(model, target=target, options=options, limit_s=limit_s, cache=cache)
    with opened as (bench, _):
        return read_estimate(bench.run("estimate") / "profile.csv")


def estimates_by_io(
    model: Model,
    *,
    target: Target,
    options: Mapping[str, Options],
    limit_s: float = LIMIT_S,
    cache: JobCache | None = None,
) -> dict[str, Estimate]:
    """Return an estimate for each named set of options."""
    return {
        name: estimate_model(model, target=target, options=each, limit_s=limit_s, cache=cache)
        for name, each in options.items()
    }
