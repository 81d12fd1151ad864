"""The command ``hexpath-quant``: audit, sensitivity, ptq, qat, regions, and lists."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hexpath_quant import __version__
from hexpath_quant.audit import command as audit_command
from hexpath_quant.errors import OutputError, UnknownNameError
from hexpath_quant.files import disk_full_as_error
from hexpath_quant.sensitivity import command as sensitivity_command

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or the error's exit code (50 to 69), or 130 when interrupted."""
    args = build_parser().parse_args(argv)
    try:
        with disk_full_as_error(Path(getattr(args, "out", None) or ".")):
            args.run(args)
    except KeyboardInterrupt:
        print("hexpath-quant: interrupted; nothing half written stays behind", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        print(f"hexpath-quant: error: {' '.join(str(error).split())}", file=sys.stderr)
        return code
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; nothing heavy is imported."""
    parser = argparse.ArgumentParser(prog="hexpath-quant", description="Quantize a model for Hexagon.")
    parser.add_argument("--version", action="version", version=f"hexpath-quant {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    audit_command.add_parsers(commands)
    sensitivity_command.add_parser(commands)
    ptq = commands.add_parser("ptq", help="quantize after training")
    _add_common(ptq)
    ptq.add_argument("--no-score", action="store_true", help="do not score the simulation first")
    ptq.set_defaults(run=run_ptq)
    qat = commands.add_parser("qat", help="train the quantized model for a few epochs")
    _add_common(qat)
    _add_training(qat)
    qat.set_defaults(run=run_qat)
    from hexpath_quant.planning.command import add_parser as add_plan_parser

    regions = commands.add_parser("regions", help="print the network's regions and their modules")
    _add_task(regions)
    regions.add_argument("--level", choices=("block", "layer"), default="block", help="default: %(default)s")
    regions.set_defaults(run=run_regions)
    add_plan_parser(commands)
    commands.add_parser("methods", help="list the post-training methods").set_defaults(run=run_methods)
    commands.add_parser("plans", help="list the precision plans").set_defaults(run=run_plans)
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="installed task, e.g. yolo-detect")
    parser.add_argument("--checkpoint", required=True, type=Path, help="model.safetensors")
    parser.add_argument("--data", required=True, type=Path, help="data.yaml")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="for the task, e.g. head=raw"
    )
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="FILE",
        help="YAML, region: module prefixes; changes the regions",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_task(parser)
    parser.add_argument(
        "--plan",
        default="w8a8",
        help="a name of `hexpath-quant plans`, or a plan file (default: %(default)s)",
    )
    parser.add_argument(
        "--method", default="minmax", help="see `hexpath-quant methods` (default: %(default)s)"
    )
    parser.add_argument(
        "--calibration", type=int, default=64, metavar="N", help="images (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")


def _add_training(parser: argparse.ArgumentParser) -> None:
    from hexpath_quant.recipe import Recipe

    default = Recipe()
    parser.add_argument("--work", type=Path, help="folder for the state to resume from (default: OUT.work)")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="default: %(default)s")
    parser.add_argument(
        "--lr", type=float, default=default.lr, help="peak learning rate (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=default.batch, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    parser.add_argument(
        "--ranges",
        choices=("learned", "frozen"),
        default=default.ranges,
        help="activation ranges during training (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("bfloat16", "float32"),
        default=default.precision,
        help="of activations during training (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default=default.device,
        help="cpu, cuda[:N], or auto: a GPU where there is one (default: %(default)s)",
    )


def run_ptq(args: argparse.Namespace) -> None:
    """Check names and paths, build the task, quantize, write."""
    from hexpath_quant.methods import find_method
    from hexpath_quant.plans import parse_plan
    from hexpath_quant.ptq import ptq
    from hexpath_quant.regions import read_overrides
    from hexpath_quant.task import load_task

    plan, _ = parse_plan(args.plan), find_method(args.method)
    overrides = read_overrides(args.regions) if args.regions else {}
    options = parse_options(args.option)
    check_paths(checkpoint=args.checkpoint, data=args.data, out=args.out)
    task = load_task(name=args.task, checkpoint=args.checkpoint, data=args.data, options=options)
    ptq(
        task,
        plan=plan,
        method=args.method,
        calibration=args.calibration,
        out=args.out,
        evaluate=not args.no_score,
        overrides=overrides,
    )


def run_qat(args: argparse.Namespace) -> None:
    """Check names and paths, build the task, train from the PTQ state, write."""
    from hexpath_quant.methods import find_method
    from hexpath_quant.plans import parse_plan
    from hexpath_quant.qat import choose_device, qat
    from hexpath_quant.recipe import Recipe
    from hexpath_quant.regions import read_overrides
    from hexpath_quant.task import load_task

    plan, _ = parse_plan(args.plan), find_method(args.method)
    overrides = read_overrides(args.regions) if args.regions else {}
    recipe = Recipe(
        epochs=args.epochs,
        lr=args.lr,
        batch=args.batch,
        seed=args.seed,
        ranges=args.ranges,
        precision=args.precision,
        device=choose_device(args.device),
    )
    options = parse_options(args.option)
    check_paths(checkpoint=args.checkpoint, data=args.data, out=args.out)
    if recipe.device != "cpu":
        options.setdefault("device", recipe.device)
    task = load_task(name=args.task, checkpoint=args.checkpoint, data=args.data, options=options)
    work = args.work or args.out.with_name(args.out.name + ".work")
    qat(
        task,
        plan=plan,
        method=args.method,
        calibration=args.calibration,
        recipe=recipe,
        out=args.out,
        work=work,
        overrides=overrides,
    )


def run_regions(args: argparse.Namespace) -> None:
    """Print the network's regions as YAML that --regions takes."""
    from hexpath_quant.prepare import prepare
    from hexpath_quant.regions import read_overrides, regions_of
    from hexpath_quant.task import load_task

    overrides = read_overrides(args.regions) if args.regions else {}
    check_paths(checkpoint=args.checkpoint, data=args.data)
    task = load_task(
        name=args.task, checkpoint=args.checkpoint, data=args.data, options=parse_options(args.option)
    )
    prepared = prepare(task.float_model(), example=task.example)
    found = regions_of(prepared, level=args.level, output_names=task.output_names, overrides=overrides)
    for region, prefixes in found.items():
        print(f"{region}: [{', '.join(prefixes)}]")


def run_methods(args: argparse.Namespace) -> None:
    """Print name, one line and source of each method."""
    from hexpath_quant.methods import METHODS

    for name, method in METHODS.items():
        print(f"{name:16} {method.SAYS} [{method.PAPER}]")


def run_plans(args: argparse.Namespace) -> None:
    """Print name and one line of each plan."""
    from hexpath_quant.plans import PLANS, SAYS

    for name in PLANS:
        print(f"{name:6} {SAYS[name]}")
    print("append -per-tensor for one weight scale a tensor instead of one a channel")


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """Return the task's options from KEY=VALUE texts.

    Raises:
        UnknownNameError: a text without '='.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UnknownNameError(f"--option '{pair}' is not KEY=VALUE, e.g. head=raw")
        options[key] = value
    return options


def check_paths(*, checkpoint: Path, data: Path, out: Path | None = None) -> None:
    """Raise an OutputError when an input is missing or ``out`` is a file."""
    for name, path in (("--checkpoint", checkpoint), ("--data", data)):
        if not path.exists():
            raise OutputError(f"{name} {path} does not exist")
    if out is not None and out.exists() and not out.is_dir():
        raise OutputError(f"--out {out} is a file; give a folder")


if __name__ == "__main__":
    sys.exit(main())
