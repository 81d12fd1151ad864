"""``hexpath-quant audit`` and ``hexpath-quant rules``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hexpath_quant.errors import OutputError, UnsafeError
from hexpath_quant.files import write_atomic

if TYPE_CHECKING:
    from hexpath_quant.audit.findings import Audit
    from hexpath_quant.plans import Plan

IMAGES = 8


def add_parsers(commands: Any) -> None:
    """Add the two subcommands."""
    audit = commands.add_parser(
        "audit", help="name what INT8 endangers in a model, before anything is trained"
    )
    audit.add_argument("model", nargs="?", type=Path, metavar="MODEL.onnx", help="a float ONNX file, or:")
    audit.add_argument("--task", help="installed task, e.g. yolo-detect")
    audit.add_argument("--checkpoint", type=Path, help="model.safetensors")
    audit.add_argument("--data", type=Path, help="data.yaml")
    audit.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for the task")
    audit.add_argument("--plan", default="w8a8", help="precisions to audit for (default: %(default)s)")
    audit.add_argument(
        "--calibration", type=int, default=IMAGES, metavar="N", help="images (default: %(default)s)"
    )
    audit.add_argument("--images", type=Path, help="with MODEL.onnx: .npz with the array 'images'")
    audit.add_argument("--out", type=Path, help="JSON file to write")
    audit.add_argument("--strict", action="store_true", help="exit with 65 when the verdict is unsafe")
    audit.set_defaults(run=run_audit)
    commands.add_parser("rules", help="list the audit's rules").set_defaults(run=run_rules)


def run_audit(args: argparse.Namespace) -> None:
    """Measure ranges, hold them against every rule, print, write."""
    from hexpath_quant.audit.table import table
    from hexpath_quant.plans import parse_precision

    plan = parse_precision(args.plan)
    found = _of_onnx(args, plan=plan) if args.model else _of_task(args, plan=plan)
    print(table(found))
    if args.out:
        write_atomic(args.out, json.dumps(found.as_json(), indent=1) + "\n")
    if args.strict and found.verdict == "unsafe":
        worst = found.findings[0]
        raise UnsafeError(
            f"{found.model} is unsafe at {plan.name}: {worst.rule} at {worst.where}; {worst.remedy}"
        )


def run_rules(args: argparse.Namespace) -> None:
    """Print name and one line of each rule."""
    from hexpath_quant.audit.rules import RULES

    for name, rule in RULES.items():
        print(f"{name:12} {rule.SAYS}")


def _of_onnx(args: argparse.Namespace, *, plan: Plan) -> Audit:
    from hexpath_quant.audit.onnx_file import network_of, recorded_images
    from hexpath_quant.audit.run import audit

    if not args.model.exists():
        raise OutputError(f"MODEL.onnx {args.model} does not exist")
    images = recorded_images(args.model, images=args.images)[: args.calibration]
    network = network_of(args.model, images=images)
    return audit(network, plan=plan, model=args.model.name, images=len(images))


def _of_task(args: argparse.Namespace, *, plan: Plan) -> Audit:
    from hexpath_quant.audit.run import audit
    from hexpath_quant.audit.traced import network_of
    from hexpath_quant.cli import parse_options
    from hexpath_quant.task import load_task

    for name in ("task", "checkpoint", "data"):
        if getattr(args, name) is None:
            raise OutputError(f"--{name} is missing; give --task, --checkpoint and --data, or a MODEL.onnx")
    for name in ("checkpoint", "data"):
        if not getattr(args, name).exists():
            raise OutputError(f"--{name} {getattr(args, name)} does not exist")
    task = load_task(
        name=args.task, checkpoint=args.checkpoint, data=args.data, options=parse_options(args.option)
    )
    network = network_of(
        task.float_model(), batches=task.calibration(args.calibration), output_names=task.output_names
    )
    model = str(task.metadata.get("hexpath.model", task.name))
    return audit(network, plan=plan, model=model, images=args.calibration)
