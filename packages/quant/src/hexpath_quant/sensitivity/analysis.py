"""The whole analysis of a task's model: what each layer, region and class loses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hexpath_quant.errors import QuantError
from hexpath_quant.plans import parse_plan
from hexpath_quant.progress import Ticker, say
from hexpath_quant.ptq import simulate
from hexpath_quant.regions import Regions, regions_of
from hexpath_quant.sensitivity.alarm import SHARE
from hexpath_quant.sensitivity.build import build_engine
from hexpath_quant.sensitivity.engine import Base, Engine, Part
from hexpath_quant.sensitivity.estimate import Estimates, estimates, parts_of
from hexpath_quant.sensitivity.journal import Journal
from hexpath_quant.sensitivity.scorer import Scorer
from hexpath_quant.sensitivity.sweep import Outcome, Variation, sweep
from hexpath_quant.state import digest_of, fingerprint
from hexpath_quant.task import Task

NETWORK = "all"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked.

    Attributes:
        plans: the first one is analyzed by layer and region, the others by region.
        method, calibration: as of ptq.
        images: validation images that are scored; None: all.
        sample: images for SQNR and estimates.
        confirm: how many layers are scored: the worst by estimate, and a quarter as many others as a control.
            None: every layer. 0: no layer, and each gets its SQNR alone quantized only, parts together: what
            planning by region needs.
        share: of its metric that a class may lose before the alarm.
        workers: processes.
    """

    plans: tuple[str, ...] = ("w8a8",)
    method: str = "minmax"
    calibration: int = 64
    images: int | None = None
    sample: int = 4
    confirm: int | None = 24
    share: float = SHARE
    workers: int = 1


class Analysis:
    """One analysis: engines, scorer, journal, and the questions asked so far.

    Args:
        task: of the model.
        settings: see Settings.
        overrides: region -> module prefixes.
        work: folder of the journal.
    """

    def __init__(
        self,
        task: Task,
        *,
        settings: Settings,
        work: Path,
        overrides: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.task, self.settings = task, settings
        self.seconds: dict[str, float] = {}
        self.engines: dict[str, Engine] = {}
        self.regions: Regions = {}
        with self._timed("prepare"):
            digest = self._build(overrides or {})
        with self._timed("float"):
            say("scoring the float model")
            self.scorer = Scorer(task, model=task.float_model(), images=settings.images)
        self.samples = task.samples(settings.sample).cpu()
        question = {k: v for k, v in asdict(settings).items() if k not in ("workers", "confirm", "share")}
        self.journal = Journal(
            work / "entries.jsonl",
            question=fingerprint({**question, "weights": digest, "regions": str(self.regions)}),
        )

    @property
    def main(self) -> str:
        """The plan that is analyzed by layer."""
        return self.settings.plans[0]

    def _build(self, overrides: Mapping[str, Sequence[str]]) -> str:
        digest = ""
        for name in self.settings.plans:
            plan = parse_plan(name)
            sim = simulate(
                self.task, plan=plan, method=self.settings.method, calibration=self.settings.calibration
            )
            if not self.regions:
                self.regions = regions_of(sim.model, output_names=self.task.output_names, overrides=overrides)
            digest += digest_of(dict(sim.model.named_parameters()))
            self.engines[name] = build_engine(sim)
        return digest

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)

    # --- steps ---------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Ask everything, return the record."""
        with self._timed("estimates"):
            self.estimates = self._estimates()
        with self._timed("sqnr"):
            self._ask(self._layers(self.engines[self.main].layers, scored=False), label="layers, SQNR")
        with self._timed("regions"):
            self._ask([*self._network(), *self._regions()], label="regions")
        with self._timed("confirm"):
            self._ask(self._layers(self._chosen(), scored=True), label="layers, scored")
        return self._record()

    def _estimates(self) -> Estimates:
        say("estimating by one backward pass")
        batch = next(iter(self.task.training(batch=self.settings.sample, epoch=1, seed=0)), None)
        engine = self.engines[self.main]
        if batch is not None:
            try:
                return estimates(
                    engine,
                    images=self.task.images(batch).cpu().float(),
                    loss=lambda outputs: self.task.loss(outputs, batch),
                )
            except Exception as error:
                if not isinstance(getattr(error, "exit_code", None), int):
                    raise
                say(f"no loss for these outputs ({error}); estimating the outputs' noise instead")
        return estimates(engine, images=self.samples, loss=None)

    def _layers(self, layers: Sequence[str], *, scored: bool) -> list[Variation]:
        engine, short = self.engines[self.main], self.settings.confirm == 0
        return [
            Variation(
                kind="layer", name=layer, part=part, plan=self.main, base=base, layers=(layer,), scored=scored
            )
            for base in ([Base.ALONE] if short else Base)
            for layer in layers
            for part in ([Part.BOTH] if short or scored or base is Base.WITHOUT else parts_of(engine, layer))
        ]

    def _network(self) -> list[Variation]:
        return [
            Variation(
                kind="network",
                name=NETWORK,
                part=part,
                plan=plan,
                base=Base.ALONE,
                layers=tuple(engine.layers),
                scored=True,
            )
            for plan, engine in self.engines.items()
            for part in Part
        ]

    def _regions(self) -> list[Variation]:
        parts = self.settings.confirm != 0
        return [
            Variation(kind="region", name=region, part=part, plan=plan, base=base, layers=layers, scored=True)
            for plan, engine in self.engines.items()
            for region, layers in self.members(engine).items()
            for base in Base
            for part in (Part if parts and plan == self.main and base is Base.ALONE else [Part.BOTH])
        ]

    def members(self, engine: Engine) -> dict[str, tuple[str, ...]]:
        """Return region -> layers."""
        found: dict[str, list[str]] = {}
        for layer in engine.layers:
            found.setdefault(region_of(layer, regions=self.regions), []).append(layer)
        return {region: tuple(layers) for region, layers in found.items()}

    def _chosen(self) -> list[str]:
        """Layers to score: the worst by estimate and by SQNR in turn, and evenly spaced others."""
        layers, count = self.engines[self.main].layers, self.settings.confirm
        if count is None or count >= len(layers):
            return layers
        if count == 0:
            return []
        by_loss = sorted(layers, key=lambda layer: -self.estimates[layer, Part.BOTH].diagonal)
        keys = {v.name: v.key for v in self._layers(layers, scored=False) if _plain(v)}
        by_noise = sorted(layers, key=lambda layer: self.journal[keys[layer]]["sqnr_db"])
        worst: dict[str, None] = {}
        for pair in zip(by_loss, by_noise, strict=True):
            worst |= dict.fromkeys(pair)
        chosen = set(list(worst)[:count])
        others = [layer for layer in layers if layer not in chosen]
        control = others[:: max(1, 4 * len(others) // max(count, 1))]
        return [layer for layer in layers if layer in chosen.union(control)]

    # --- asking --------------------------------------------------------------------------------------

    def _ask(self, variations: Sequence[Variation], *, label: str) -> None:
        """Run what the journal does not have, and write every answer at once."""
        missing = [v for v in variations if v.key not in self.journal]
        say(f"{label}: {len(missing)} of {len(variations)} variations to run")
        ticker = Ticker(total=len(missing), label=label)
        pieces = [piece.numpy() for piece in self.samples.split(4)]
        outcomes = sweep(
            missing,
            engines=self.engines,
            scored=self.scorer.batches,
            sample=pieces,
            workers=self.settings.workers,
        )
        for done, outcome in enumerate(outcomes, start=1):
            self.journal.add(outcome.variation.key, self._answer(outcome))
            ticker.tick(done)

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        answer: dict[str, Any] = {"sqnr_db": outcome.noise.sqnr_db, "cosine": outcome.noise.cosine}
        if outcome.outputs is not None:
            answer |= self.scorer.score(outcome.outputs).as_json()
        return answer

    # --- the record ----------------------------------------------------------------------------------

    def _record(self) -> dict[str, Any]:
        from hexpath_quant.sensitivity.record import build_record

        return build_record(self)


def region_of(layer: str, *, regions: Regions) -> str:
    """Return the region with the longest prefix of a layer's path.

    Raises:
        QuantError: no region has it.
    """
    parts = layer.split(".")
    owner = {prefix: region for region, prefixes in regions.items() for prefix in prefixes}
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in owner:
            return owner[".".join(parts[:end])]
    raise QuantError(f"layer {layer} belongs to no region")


def _plain(variation: Variation) -> bool:
    return variation.base is Base.ALONE and variation.part is Part.BOTH
