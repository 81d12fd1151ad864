"""``hexpath-quant plan``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hexpath_quant.errors import UnknownNameError
from hexpath_quant.files import atomic_folder
from hexpath_quant.progress import say

Measure = Callable[[Sequence[Mapping[str, str]]], list[dict[str, Any]]]
DEFAULT = "w8a8,w8a16,w4a8,fp16"


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("plan", help="choose a precision for each region: latency against accuracy")
    parser.add_argument("--sensitivity", required=True, type=Path, help="of `hexpath-quant sensitivity`")
    parser.add_argument("--costs", required=True, type=Path, help="of `hexpath-deploy regions`")
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--max-drop", type=float, metavar="POINTS", help="the fastest plan that loses no more")
    wish.add_argument("--budget-ms", type=float, metavar="MS", help="the most accurate plan within a latency")
    parser.add_argument("--max-mb", type=float, metavar="MB", help="with --max-drop: size of the binary")
    parser.add_argument("--points", type=int, default=6, help="of the front (default: %(default)s)")
    parser.add_argument(
        "--precisions", default=DEFAULT, help="to choose from, as far as both files have them (default: all)"
    )
    parser.add_argument("--flat", type=float, metavar="SHARE", help="also the flat flip of worst-SQNR layers")
    parser.add_argument(
        "--pairs", type=int, default=0, metavar="N", help="measure pairs of the N worst regions"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="measure what was chosen, choose again: N times"
    )
    for name, kind, text in (
        ("task", str, "to measure: installed task"),
        ("checkpoint", Path, "to measure: model.safetensors"),
        ("data", Path, "to measure: data.yaml"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for the task")
    parser.add_argument("--out", required=True, type=Path, help="folder: plan files and front.json")
    parser.set_defaults(run=run)
    amp = commands.add_parser("amp", help="AIMET's automatic mixed precision, as a plan file to compare with")
    amp.add_argument("--task", required=True, help="installed task, e.g. yolo-detect")
    amp.add_argument("--checkpoint", required=True, type=Path, help="model.safetensors")
    amp.add_argument("--data", required=True, type=Path, help="data.yaml")
    amp.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for the task")
    amp.add_argument("--method", default="minmax", help="see `hexpath-quant methods`")
    amp.add_argument("--calibration", type=int, default=64, metavar="N", help="images (default: %(default)s)")
    amp.add_argument(
        "--max-drop", type=float, default=0.5, metavar="POINTS", help="allowed (default: %(default)s)"
    )
    amp.add_argument("--out", required=True, type=Path, help="folder: amp.yaml and amp.json")
    amp.set_defaults(run=run_amp)


def run_amp(args: argparse.Namespace) -> None:
    """Let AIMET choose, write its choice as a plan."""
    from dataclasses import asdict

    from hexpath_quant.cli import check_paths, parse_options
    from hexpath_quant.methods import find_method
    from hexpath_quant.planning.amp import amp_plan
    from hexpath_quant.plans import to_yaml
    from hexpath_quant.task import load_task

    find_method(args.method)
    options = parse_options(args.option)
    check_paths(checkpoint=args.checkpoint, data=args.data, out=args.out)
    task = load_task(name=args.task, checkpoint=args.checkpoint, data=args.data, options=options)
    plan, calls = amp_plan(
        task, method=args.method, calibration=args.calibration, max_drop=args.max_drop / 100
    )
    told = {"schema": 1, "max_drop": args.max_drop / 100, **asdict(calls)}
    with atomic_folder(args.out) as folder:
        (folder / "amp.yaml").write_text(to_yaml(plan))
        (folder / "amp.json").write_text(json.dumps(told, indent=1) + "\n")
    count = sum(len(modules) for modules in plan.modules.values())
    print(f"{count} operators at 16 bit, after {calls.outputs} outputs and {calls.scores} scores")


def run(args: argparse.Namespace) -> None:
    """Read, measure if asked, solve, write, print."""
    check_numbers(args)
    from hexpath_quant.planning.figures import count_scores, read_json
    from hexpath_quant.planning.solve import least_step
    from hexpath_quant.plans import BASE

    analysis = read_json(args.sensitivity, kind="sensitivity analysis", keys=("metric", "entries", "plan"))
    start = time.perf_counter()
    figures, points, measured = _choose(args, analysis=analysis)
    record = {
        "schema": 1,
        "metric": figures.metric,
        "float": analysis.get("float", {}).get("metrics", {}).get(figures.metric),
        "base": BASE,
        "target": read_json(args.costs, kind="cost table", keys=()).get("target"),
        "precisions": args.precisions.split(","),
        "fit": dict(figures.fit),
        "least_step": round(least_step(figures), 6),
        "scores": count_scores(analysis) + len(measured),
        "seconds": round(sum(analysis.get("seconds", {}).values()) + time.perf_counter() - start, 1),
        "measured": measured,
        "points": points,
    }
    with atomic_folder(args.out) as folder:
        for point in points:
            _write_plan(folder, point)
        if args.flat:
            _write_flat(folder, analysis=analysis, share=args.flat)
        (folder / "front.json").write_text(json.dumps(record, indent=1) + "\n")
    print(as_text(points))
    print(
        f"losses that differ by less than {100 * least_step(figures):.2f} points are not told apart:"
        f" one measured loss has a standard deviation of {100 * figures.noise:.2f}"
    )


def check_numbers(args: argparse.Namespace) -> None:
    """Raise UnknownNameError for a number or a precision that means nothing, before anything is read."""
    from hexpath_quant.plans import FP16, parse_precision

    if args.points < 1:
        raise UnknownNameError(f"--points {args.points} is no number of plans; give at least 1")
    if args.pairs < 0 or args.pairs == 1:
        raise UnknownNameError(f"--pairs {args.pairs} makes no pair; give 2 or more, or 0 for none")
    if args.rounds < 0:
        raise UnknownNameError(f"--rounds {args.rounds} is no number of rounds; give 0 or more")
    if args.flat is not None and not 0 < args.flat <= 1:
        raise UnknownNameError(f"--flat {args.flat:g} is no share of the layers; give e.g. 0.1")
    for precision in args.precisions.split(","):
        if precision != FP16:
            parse_precision(precision)


def _choose(
    args: argparse.Namespace, *, analysis: Mapping[str, Any]
) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the figures, the points, and the rows that were measured on the way to them."""
    from hexpath_quant.planning.figures import read_figures
    from hexpath_quant.planning.measure import pairs_of, uniform

    measure = _measure(args, analysis=analysis) if args.pairs or args.rounds else None
    measured = measure(pairs_of(analysis, top=args.pairs)) if measure and args.pairs else []

    def figures_now() -> Any:
        return read_figures(
            sensitivity=args.sensitivity,
            costs=args.costs,
            precisions=args.precisions.split(","),
            measured=measured,
        )

    figures = figures_now()
    points = _points(args, figures=figures)
    if measure is None or not args.rounds:
        return figures, points, measured
    whole = uniform(analysis, figures=figures)
    for _ in range(args.rounds):
        fresh: list[dict[str, str]] = []
        for regions in map(_flipped, points):
            if regions not in [*fresh, *(row["regions"] for row in (*whole, *measured))]:
                fresh.append(regions)
        if not fresh:
            break
        measured += measure(fresh)
        figures = figures_now()
        points = _points(args, figures=figures)
    return figures, _measured_points(args, figures=figures, rows=[*whole, *measured]), measured


def _points(args: argparse.Namespace, *, figures: Any) -> list[dict[str, Any]]:
    from hexpath_quant.planning.solve import fastest, front, most_accurate

    if args.max_drop is not None:
        return [_as_point(fastest(figures, max_drop=args.max_drop / 100, max_mb=args.max_mb), name="fastest")]
    if args.budget_ms is not None:
        return [_as_point(most_accurate(figures, budget_ms=args.budget_ms), name="most-accurate")]
    return _front(list(front(figures)), count=args.points)


def _measured_points(
    args: argparse.Namespace, *, figures: Any, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The points among what was measured: their losses are no predictions."""
    from hexpath_quant.planning.solve import candidates, least_step, measured_front

    step = least_step(figures)
    found = measured_front(candidates(figures, rows=rows), step=step)
    if args.max_drop is not None:
        fit = [s for s in found if s.drop <= args.max_drop / 100 and s.mb <= (args.max_mb or s.mb)]
        chosen, name = fit[:1], "fastest"
    elif args.budget_ms is not None:
        fit = [s for s in found if s.ms <= args.budget_ms]
        chosen, name = fit[-1:], "most-accurate"
    else:
        return _front(found, count=args.points)
    if not chosen:
        say("no plan that was measured keeps within that: the loss of this one is predicted")
        return _points(args, figures=figures)
    return [_as_point(chosen[0], name=name)]


def _front(found: Sequence[Any], *, count: int) -> list[dict[str, Any]]:
    """A fixed number of points, so that a pipeline can name them; a short front repeats its last one."""
    from hexpath_quant.planning.solve import thin

    kept = thin(found, count=count)
    kept += [kept[-1]] * (count - len(kept))
    return [_as_point(s, name=f"front-{index}") for index, s in enumerate(kept, start=1)]


def _as_point(s: Any, *, name: str) -> dict[str, Any]:
    return {
        "plan": name,
        "ms": round(s.ms, 4),
        "mb": round(s.mb, 4),
        "drop": round(s.drop, 6),
        "error": round(s.error, 6),
        "regions": dict(s.plan),
    }


def _measure(args: argparse.Namespace, *, analysis: Mapping[str, Any]) -> Measure:
    from hexpath_quant.cli import check_paths, parse_options
    from hexpath_quant.planning.measure import measure_plans
    from hexpath_quant.task import load_task

    if not (args.task and args.checkpoint and args.data):
        asked = "--pairs" if args.pairs else "--rounds"
        raise UnknownNameError(f"{asked} measures: it needs --task, --checkpoint and --data")
    check_paths(checkpoint=args.checkpoint, data=args.data)
    options = parse_options(args.option)
    task = load_task(name=args.task, checkpoint=args.checkpoint, data=args.data, options=options)
    return lambda plans: measure_plans(task, analysis=analysis, plans=plans)


def _flipped(point: Mapping[str, Any]) -> dict[str, str]:
    """Return the regions of a point that are not at BASE."""
    from hexpath_quant.plans import BASE

    return {region: precision for region, precision in point["regions"].items() if precision != BASE}


def _write_plan(folder: Path, point: Mapping[str, Any]) -> None:
    from hexpath_quant.plans import BASE, MixedPlan, to_yaml

    plan = MixedPlan(name=point["plan"], default=BASE, regions=_flipped(point))
    (folder / f"{plan.name}.yaml").write_text(to_yaml(plan))


def _write_flat(folder: Path, *, analysis: Mapping[str, Any], share: float) -> None:
    from hexpath_quant.planning.flat import flat_plan
    from hexpath_quant.plans import to_yaml

    (folder / "flat.yaml").write_text(to_yaml(flat_plan(analysis, share=share, name="flat")))


def as_text(points: Sequence[Mapping[str, Any]]) -> str:
    """Return the points as a table: predicted latency, size, loss with its error, what is not at w8a8."""
    lines = [f"{'plan':14} {'ms':>7} {'MB':>6} {'points':>7} {'+-':>5}  regions that are not at w8a8"]
    for point in points:
        flipped = [f"{r} {p}" for r, p in point["regions"].items() if p != "w8a8"]
        lines.append(
            f"{point['plan']:14} {point['ms']:7.3f} {point['mb']:6.2f} {0 - 100 * point['drop']:+7.2f}"
            f" {100 * point['error']:5.2f}  {', '.join(flipped) or 'none'}"
        )
    return "\n".join(lines)
