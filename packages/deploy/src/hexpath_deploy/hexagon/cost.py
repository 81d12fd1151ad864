"""What a graph costs on the NPU, by one compilation, kept by the content of what was compiled."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import onnx

from hexpath_deploy.errors import CompileError, ToolchainCrashError, UnsupportedOperatorError
from hexpath_deploy.files import read_json, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.estimate import read_estimate
from hexpath_deploy.hexagon.job import Job, run_job
from hexpath_deploy.hexagon.options import QUANTIZED, Options, provider_options
from hexpath_deploy.io import quantize_io
from hexpath_deploy.targets import Target

Progress = Callable[[int, int], None]
REFUSALS = (UnsupportedOperatorError, CompileError, ToolchainCrashError)
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Qualcomm's estimate of one inference, and what the compiled binary takes.

    `ms` lies between `low_ms` and `high_ms`; `mb` is the context binary, `ddr_mb` all DDR traffic, `spill_mb`
    its part that did not fit into VTCM; `missing_ops` above 0: the estimate is too low.
    """

    ms: float
    low_ms: float
    high_ms: float
    mb: float
    ddr_mb: float
    spill_mb: float
    missing_ops: int

    def as_dict(self) -> dict[str, Any]:
        """Return the cost for a record."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The compiler did not take it, or crashed on it; `why` in its words."""

    why: str
    crashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """How graphs are compiled, and the folder that keeps their costs; `subject` names them in messages."""

    target: Target
    cache: Path
    subject: Path
    io: str = QUANTIZED
    optimization: int = 3
    limit_s: float = 1800.0

    def cost(self, proto: onnx.ModelProto, *, fp16: bool) -> Cost | Refusal:
        """Return the cost of a graph, which is changed on the way; compiles only what was never compiled.

        Raises:
            ToolchainTimeoutError, EstimateError, DiskFullError.
        """
        if self.io == QUANTIZED:
            quantize_io(proto)
        del proto.metadata_props[:]  # the compiler does not read it: the same graph is the same entry
        options = provider_options(
            Options(io=self.io, optimization=self.optimization, fp16=fp16), soc_model=self.target.soc_model
        )
        data = proto.SerializeToString(deterministic=True)
        entry = self.cache / f"{key_of(data, options=options)}.json"
        if not entry.exists():
            write_json(entry, self.compile(data, options=options))
        found = read_json(entry)
        if "refused" in found:
            return Refusal(why=found["refused"], crashed=bool(found.get("crashed")))
        return Cost(**found)

    def compile(self, data: bytes, *, options: Mapping[str, str]) -> dict[str, Any]:
        """Compile a graph in a subprocess; returns its cost, or why the compiler refused it."""
        with tempfile.TemporaryDirectory(prefix="hexpath-") as scratch:
            folder = Path(scratch)
            (folder / "model.onnx").write_bytes(data)
            job = Job(request={"job": "cost", "options": options}, scratch=folder, subject=self.subject)
            try:
                run_job(job, limit_s=self.limit_s)
            except REFUSALS as error:
                told = {"refused": " ".join(str(error).split())}
                return told | ({"crashed": True} if isinstance(error, ToolchainCrashError) else {})
            found = read_estimate(folder / "profile.csv")
            size = sum(path.stat().st_size for path in folder.glob("*.bin"))
        return Cost(
            ms=found.value_ms,
            low_ms=found.low_ms,
            high_ms=found.high_ms,
            mb=size / 1e6,
            ddr_mb=found.ddr_mb,
            spill_mb=found.spill_mb,
            missing_ops=found.missing_ops,
        ).as_dict()


def key_of(data: bytes, *, options: Mapping[str, str]) -> str:
    """Return a name that changes with the graph, the options (the target is one) and the tools."""
    tools = {name: found for name, found in toolchain.versions().items() if name != "hexpath-deploy"}
    said = json.dumps([options, tools], sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(data).digest() + said).hexdigest()


def side_by_side(
    work: Callable[[Item], Cost | Refusal],
    items: Sequence[Item],
    *,
    workers: int,
    progress: Progress | None = None,
) -> list[Cost | Refusal]:
    """Return the cost of each item, `workers` compilers at a time; what is done stays in the cache."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in running]


def accepted(cost: Cost | Refusal, *, what: str) -> Cost:
    """Return a cost that must exist.

    Raises:
        CompileError: the compiler refused it.
    """
    if isinstance(cost, Refusal):
        raise CompileError(f"{what} does not compile: {cost.why}")
    return cost
