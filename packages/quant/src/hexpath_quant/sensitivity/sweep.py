"""Many variations of one network, spread over processes (or machines, by a registered joblib backend)."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from hexpath_quant.sensitivity.engine import Base, Engine, Part
from hexpath_quant.sensitivity.noise import Noise

Array = NDArray[np.float32]
MICRO_BATCH = 4  # images: what a core's cache takes best (measured with YOLO11n at 320)
SCORED_CHUNK, SAMPLE_CHUNK = 8, 48  # variations that share the run of their base; scored ones keep outputs


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One question: what if these layers' part alone is quantized, or all but it?

    Attributes:
        kind: network, region or layer.
        scored: run on the validation images and hand the outputs out, else on the sample for SQNR only.
    """

    kind: str
    name: str
    part: Part
    plan: str
    base: Base
    layers: tuple[str, ...]
    scored: bool

    @property
    def key(self) -> str:
        """Name in the journal."""
        fields = (
            self.kind,
            self.name,
            self.part,
            self.plan,
            self.base,
            "scored" if self.scored else "sample",
        )
        return "|".join(map(str, fields))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Distance from the float outputs, and the outputs themselves of a scored variation, by batch."""

    variation: Variation
    noise: Noise
    outputs: list[tuple[Array, ...]] | None


def sweep(
    variations: Sequence[Variation],
    *,
    engines: dict[str, Engine],
    scored: Sequence[Array],
    sample: Sequence[Array],
    workers: int,
) -> Iterator[Outcome]:
    """Yield outcomes as they come in, in any order.

    Args:
        engines: by plan.
        scored, sample: batches of float32 (B, 3, H, W).
        workers: processes; 1 stays in this one.
    """
    chunks = list(_chunks(variations))
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            images = scored if chunk[0].scored else sample
            yield from run_chunk(engines[chunk[0].plan], chunk, images)
        return
    packed = {plan: _pack(engine) for plan, engine in engines.items()}
    tasks = (
        joblib.delayed(_in_worker)(packed[c[0].plan], c, list(scored if c[0].scored else sample))
        for c in chunks
    )
    for outcomes in _parallel(workers)(tasks):
        yield from outcomes


def _parallel(workers: int) -> joblib.Parallel:
    """Results as they come where the backend can (loky, threads), else all at the end."""
    streaming = joblib.Parallel(n_jobs=workers)._backend.supports_return_generator
    return joblib.Parallel(n_jobs=workers, return_as="generator_unordered" if streaming else "list")


def _chunks(variations: Sequence[Variation]) -> Iterator[list[Variation]]:
    groups: dict[tuple[str, Base, bool], list[Variation]] = {}
    for variation in variations:
        groups.setdefault((variation.plan, variation.base, variation.scored), []).append(variation)
    for group in groups.values():
        size = SCORED_CHUNK if group[0].scored else SAMPLE_CHUNK
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _pack(engine: Engine) -> NDArray[np.uint8]:
    """As an array: joblib maps large arrays into its workers' memory."""
    return np.frombuffer(pickle.dumps(engine), dtype=np.uint8)


def _in_worker(packed: NDArray[np.uint8], chunk: list[Variation], images: list[Array]) -> list[Outcome]:
    torch.set_num_threads(1)
    data = packed.tobytes()
    return run_chunk(_unpacked(hashlib.sha256(data).hexdigest(), _Bytes(data)), chunk, images)


class _Bytes:
    """Bytes that a cache does not hash."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bytes)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=4)
def _unpacked(digest: str, data: _Bytes) -> Engine:
    engine: Engine = pickle.loads(data.data)
    return engine


def run_chunk(engine: Engine, chunk: Sequence[Variation], images: Sequence[Array]) -> list[Outcome]:
    """Run variations that share base and images."""
    base, keep = chunk[0].base, chunk[0].scored
    noises = [Noise() for _ in chunk]
    kept: list[list[tuple[Array, ...]]] = [[] for _ in chunk]
    with torch.inference_mode():
        for batch in images:
            parts: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in chunk]
            for piece in torch.from_numpy(np.array(batch)).split(MICRO_BATCH):
                for index, outputs in enumerate(_vary(engine, chunk, piece, base=base, noises=noises)):
                    parts[index].append(outputs)
            for index, pieces in enumerate(parts if keep else []):
                kept[index].append(tuple(torch.cat(p).numpy() for p in zip(*pieces, strict=True)))
    return [
        Outcome(variation=v, noise=n, outputs=k if keep else None)
        for v, n, k in zip(chunk, noises, kept, strict=True)
    ]


def _vary(
    engine: Engine, chunk: Sequence[Variation], piece: torch.Tensor, *, base: Base, noises: list[Noise]
) -> Iterator[tuple[torch.Tensor, ...]]:
    values: dict[str, Any] = engine.run(piece, base=Base.ALONE)
    reference = engine.outputs(values)
    if base is Base.WITHOUT:
        values = engine.run(piece, base=base)
    for variation, noise in zip(chunk, noises, strict=True):
        outputs = engine.vary(values, base=base, switched=dict.fromkeys(variation.layers, variation.part))
        noise.add(reference=reference, found=outputs)
        yield tuple(o.contiguous() for o in outputs)
