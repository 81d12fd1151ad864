"""The parts of `hexpath-models` that concern segmentation networks."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from typing import Any

from ..errors import OptionError


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only segmentation networks heed; nothing heavy is imported."""
    from .config import LOSS_NAMES, SCHEDULES, WEIGHTINGS

    group = parser.add_argument_group("segmentation networks only")
    group.add_argument(
        "--deploy",
        default="",
        help="size of whole images, e.g. 512x512, of which --imgsz is cut (default: --imgsz)",
    )
    group.add_argument("--backbone-lr", type=float, help="default: --lr, a tenth of it from weights")
    group.add_argument("--weight-decay", type=float, default=0.01, help="default: %(default)s")
    group.add_argument("--loss", default="focal", help=f"{', '.join(LOSS_NAMES)} (default: %(default)s)")
    group.add_argument(
        "--class-weights",
        dest="weighting",
        default="balanced",
        help=f"{' or '.join(WEIGHTINGS)} (default: %(default)s)",
    )
    group.add_argument(
        "--schedule", default="cosine", help=f"{' or '.join(SCHEDULES)} (default: %(default)s)"
    )
    group.add_argument("--warmup", type=float, default=1.0, help="epochs (default: %(default)s)")
    group.add_argument("--ema", type=float, default=0.99, help="decay, 0 for none (default: %(default)s)")
    group.add_argument("--clip", type=float, default=1.0, help="gradient norm (default: %(default)s)")
    add_option_argument(group)


def add_option_argument(parser: Any) -> None:
    """Add --option KEY=VALUE for the architecture."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of a segmentation network, e.g. attention=split for efficientvit_seg_b1",
    )


def parse_options(pairs: list[str]) -> dict[str, str]:
    """Return KEY=VALUE texts as a dict; raise OptionError for one without '='."""
    for pair in pairs:
        if not pair.partition("=")[1] or not pair.partition("=")[0]:
            raise OptionError(f"--option {pair!r} is not KEY=VALUE, e.g. attention=split")
    return {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}


def run_train(arguments: argparse.Namespace, *, device: str) -> None:
    """Train and print one line."""
    if (
        arguments.pretrained
    ):  # the only switch that lifts the ban on the network, before transformers reads it
        os.environ.update(HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0")
    from .config import SemanticConfig
    from .train import train_semantic

    given = vars(arguments) | {"options": parse_options(arguments.option), "device": device}
    config = SemanticConfig(**{field.name: given[field.name] for field in fields(SemanticConfig)})
    metrics = train_semantic(config, data=arguments.data, out=arguments.out, work=arguments.work)
    print(
        f"{arguments.out}: {config.model}, best of {metrics['epochs']} epochs is {metrics['best_epoch']}, "
        f"miou {metrics['miou']:.3f}, {metrics['precision']}"
    )


def run_export(arguments: argparse.Namespace) -> None:
    """Export and print one line."""
    from .export import export_semantic

    options = parse_options(arguments.option)
    if arguments.imgsz:
        options["imgsz"] = arguments.imgsz
    path, shapes, deviation = export_semantic(
        checkpoint=arguments.checkpoint, data=arguments.data, out=arguments.out, options=options
    )
    outputs = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    print(f"{path}: {outputs}; ONNX Runtime agrees with torch to {deviation:.1e}")


def print_list() -> None:
    """Print the known segmentation networks."""
    from .registry import SEMANTIC

    print("\nmodel                task      mIoU  trained on            params M  weights (licence)")
    for card in SEMANTIC.values():
        on = f"{card.trained_on}, {card.classes}"
        print(
            f"{card.name:20} {card.task:8} {card.published_miou:5.1f}  {on:20} {card.params_m:9.1f}  "
            f"{card.weights_files[0]} ({card.licence}); {card.note}"
        )
