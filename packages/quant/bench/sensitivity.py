"""Time and findings of a full sensitivity analysis: AIMET's QuantAnalyzer and ours, one run, the same data.

    python bench/sensitivity.py --checkpoint model.safetensors --data data.yaml [--images 8] [--plan w4a8]

QuantAnalyzer evaluates each of L layers alone, and all but it. With --every N it evaluates each N-th layer
only: the time of the others is taken to be the same, and the worst are those of the layers asked. Ours scores
every region and the worst layers. CPU seconds (user and system, one thread) are compared, so that other load
on the machine does not count; wall-clock seconds stand beside them. Both see min-max ranges of the same
calibration images under Hexagon's rules, and the same first validation images. --device cuda gives
QuantAnalyzer a GPU, to ask every layer in less time; ours stays on the CPU, so their times are no comparison.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from aimet_torch.common.defs import CallbackFunc, QuantScheme
from aimet_torch.quant_analyzer import QuantAnalyzer
from scipy.stats import spearmanr

from hexpath_quant.plans import parse_precision
from hexpath_quant.prepare import prepare
from hexpath_quant.sensitivity.analysis import Analysis, Settings
from hexpath_quant.sim import forward_of, hexagon_config
from hexpath_quant.task import load_task

TEN = 10


class Clock:
    """CPU and wall-clock seconds of a block."""

    def __enter__(self) -> Clock:
        self.start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = time.process_time() - self.start[0], time.perf_counter() - self.start[1]


def main() -> int:
    """Print the table and one JSON line."""
    args = arguments()
    torch.set_num_threads(1)

    def load(device: str) -> Any:
        options = {"device": device}
        return load_task(name=args.task, checkpoint=args.checkpoint, data=args.data, options=options)

    task = load("cpu")
    task.evaluate(forward_of(task.float_model()), images=args.images)  # images are read and decoded before
    with Clock() as ours, tempfile.TemporaryDirectory() as work:
        settings = Settings(
            plans=(args.plan,),
            calibration=args.calibration,
            images=args.images,
            sample=args.sample,
            confirm=None if args.confirm == "all" else int(args.confirm),
        )
        record = Analysis(task, settings=settings, work=Path(work)).run()
    with Clock() as theirs:
        alone, without, asked = quant_analyzer(load(args.device), args=args)
    theirs.cpu += asked.cpu * (args.every - 1)
    theirs.wall += asked.wall * (args.every - 1)
    report(record, alone=alone, without=without, seconds={"ours": ours, "QuantAnalyzer": theirs}, args=args)
    return 0


class Sampled(QuantAnalyzer):  # type: ignore[misc]
    """Evaluates every n-th layer only, and keeps the time of it; the rest is nan."""

    every, asked, cpu, wall = 1, 0, 0.0, 0.0

    def _eval_model(self, model: torch.nn.Module) -> float:
        self.asked += 1
        if (self.asked - 1) % self.every:
            return float("nan")
        with Clock() as clock:
            score = float(super()._eval_model(model))
        self.cpu += clock.cpu
        self.wall += clock.wall
        return score


def quant_analyzer(
    task: Any, *, args: argparse.Namespace
) -> tuple[dict[str, float], dict[str, float], Sampled]:
    """Return the scores by layer, alone quantized and alone float, and the analyzer with its times."""
    plan, example = parse_precision(args.plan), task.example
    logging.disable(logging.INFO)

    def evaluate(model: torch.nn.Module, _: None) -> float:
        return float(next(iter(task.evaluate(forward_of(model), images=args.images).values())))

    def calibrate(model: torch.nn.Module, _: None) -> None:
        with torch.no_grad():
            for images in task.calibration(args.calibration):
                model(images)

    callbacks = CallbackFunc(calibrate), CallbackFunc(evaluate)
    analyzer = Sampled(prepare(task.float_model(), example=example), example, *callbacks)
    analyzer.every = args.every
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "htp.json"
        config.write_text(json.dumps(hexagon_config(plan)))
        sim = analyzer._create_quantsim_and_encodings(
            QuantScheme.min_max, plan.weight_bits, plan.activation_bits, str(config)
        )
        alone = analyzer.perform_per_layer_analysis_by_enabling_quant_wrappers(sim, folder)
        without = analyzer.perform_per_layer_analysis_by_disabling_quant_wrappers(sim, folder)
    answered = [{n: v for n, v in found.items() if v == v} for found in (alone, without)]
    return answered[0], answered[1], analyzer


def report(
    record: dict[str, Any],
    *,
    alone: dict[str, float],
    without: dict[str, float],
    seconds: dict[str, Clock],
    args: argparse.Namespace,
) -> None:
    """Print ratio of times, overlap of the ten worst, rank correlations; the same as JSON."""
    rows = {e["name"]: e for e in record["entries"] if e["kind"] == "layer" and e["part"] == "both"}
    scored = {name: e["drop_alone"] for name, e in rows.items() if "drop_alone" in e and name in alone}
    theirs = sorted(alone, key=lambda name: alone[name])[:TEN]
    ours = sorted(scored, key=lambda name: -scored[name])[:TEN]
    both = sorted(set(scored) & set(alone))
    figures = {
        "plan": args.plan,
        "images": args.images,
        "sample": args.sample,
        "device": args.device,
        "their_layers": len(alone),
        "every": args.every,
        "scored_by_ours": len(scored),
        "cpu_s": {name: round(clock.cpu, 1) for name, clock in seconds.items()},
        "wall_s": {name: round(clock.wall, 1) for name, clock in seconds.items()},
        "ratio_wall": round(seconds["ours"].wall / seconds["QuantAnalyzer"].wall, 4),
        "ratio_cpu": round(seconds["ours"].cpu / seconds["QuantAnalyzer"].cpu, 4),
        "ten_worst_in_common": len(set(theirs) & set(ours)),
        "their_ten_scored_by_ours": len(set(theirs) & set(scored)),
        "spearman_scored": spearman([-scored[n] for n in both], [alone[n] for n in both]),
        "spearman_sqnr_all": spearman([rows[n]["sqnr_db"] for n in alone], list(alone.values())),
        "spearman_fisher_all": spearman([-rows[n]["fisher"] for n in alone], list(alone.values())),
        "their_ten": {n: round(alone[n], 4) for n in theirs},
        "their_ten_rank_by_sqnr": ranks(theirs, order=sorted(rows, key=lambda n: rows[n]["sqnr_db"])),
        "ours_ten": {n: round(scored[n], 4) for n in ours},
        "largest_difference": max((abs(float_of(record) - scored[n] - alone[n]) for n in both), default=0.0),
        "without": len(without),
    }
    print(f"{'':16}{'CPU s':>9}{'wall s':>9}")
    for name, clock in seconds.items():
        print(f"{name:16}{clock.cpu:9.1f}{clock.wall:9.1f}")
    print(f"ours takes {figures['ratio_cpu']:.3f} of QuantAnalyzer's CPU time")
    print(f"ten worst layers in common: {figures['ten_worst_in_common']} of {TEN}")
    print(json.dumps(figures))


def float_of(record: dict[str, Any]) -> float:
    """The float model's score."""
    return float(record["float"]["metrics"][record["metric"]])


def ranks(names: list[str], *, order: list[str]) -> list[int]:
    """Places, from 1, of names in an order."""
    return [order.index(name) + 1 for name in names]


def spearman(first: list[float], second: list[float]) -> float | None:
    """Rank correlation; None where one of them is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return round(float(spearmanr(first, second).statistic), 3)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="yolo-detect")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plan", default="w8a8")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--sample", type=int, default=4, help="images of ours for SQNR and estimates")
    parser.add_argument("--device", default="cpu", help="of QuantAnalyzer")
    parser.add_argument("--calibration", type=int, default=16)
    parser.add_argument("--confirm", default="24")
    parser.add_argument("--every", type=int, default=1, help="QuantAnalyzer asks each N-th layer only")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
