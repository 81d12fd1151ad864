"""The `hexpath-models` command."""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .errors import DiskFullError, ModelError, OptionError
from .semantic.command import add_option_argument, add_train_arguments, print_list, run_export, run_train

if TYPE_CHECKING:
    from .checkpoint import CheckpointCard
    from .semantic.checkpoint import SemanticCheckpoint


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code; errors are one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except ModelError as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("hexpath-models: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _complain(DiskFullError(f"disk full: {error}; free some space and run again"))
    return 0


def _complain(error: ModelError) -> int:
    print(f"hexpath-models: error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hexpath-models", description="Train, check and export YOLO networks."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_list(commands)
    _add_train(commands)
    _add_export(commands)
    _add_import(commands)
    _add_browser(commands)
    return parser


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("list", help="print the known models with their published figures")
    parser.set_defaults(run=_list)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network in float precision",
        description="Trains from random weights; run again with the same arguments after a kill it resumes.",
    )
    parser.add_argument(
        "--model", default="", help="a name from `list` (default: that of --weights, else yolo11n)"
    )
    _add_data(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for model.safetensors, history, metrics"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that a resume needs")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--imgsz", default="320", help="pixels; 544x640 too for segmentation (default: 320)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--optimizer", default="AdamW")
    parser.add_argument("--mosaic", type=float, default=0.3, help="probability (default: %(default)s)")
    parser.add_argument("--patience", type=int, default=50, help="epochs without gain until it stops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda[:N], or auto: a GPU where there is one")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from published weights; may download them"
    )
    start.add_argument("--weights", default="", help="start from this model.safetensors or .pt file")
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compute in bfloat16 on the CPU (default: where the CPU has the instructions)",
    )
    add_train_arguments(parser)
    parser.set_defaults(run=_train)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("export", help="write a float ONNX file with a recorded input and output")
    parser.add_argument("checkpoint", type=Path, help="model.safetensors")
    _add_data(parser)
    parser.add_argument("--head", default="raw", help="raw, decoded or plain (default: %(default)s)")
    parser.add_argument(
        "--branch",
        default="",
        help="one-to-one (default where there is one) or one-to-many, of two-branch heads",
    )
    parser.add_argument("--imgsz", default="", help="320 or 544x640 (default: the checkpoint's)")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.onnx and recorded.npz")
    add_option_argument(parser)
    parser.set_defaults(run=_export)


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import", help="take a trained network, e.g. an Ultralytics .pt file, safely"
    )
    parser.add_argument(
        "file", type=Path, help="a .pt file (YOLOv3, v5, v8, v9, v10, 11, 26), or a model.safetensors"
    )
    parser.add_argument("--imgsz", default="", help="320 or 544x640 to deploy at (default: as trained)")
    parser.add_argument("--data", type=Path, help="data.yaml, to check that it has the checkpoint's classes")
    parser.add_argument("--out", type=Path, required=True, help="model.safetensors")
    parser.set_defaults(run=_import)


def _add_browser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "browser", help="write a folder in which a browser runs the network (SegFormer, by Transformers.js)"
    )
    parser.add_argument("float", type=Path, help="the float model.onnx, by `export`")
    parser.add_argument("quantized", type=Path, help="the INT8 model.onnx, by hexpath-quant")
    _add_data(parser)
    parser.add_argument("--images", type=int, default=8, help="to compare both on (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder; npm install and npm start run it")
    parser.set_defaults(run=_browser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="data.yaml in Ultralytics format")


def _list(arguments: argparse.Namespace) -> None:
    from .registry import MODELS

    print("model        task     mAP50-95  masks  end-to-end  params M  GFLOPs@640  weights (licence)")
    for card in MODELS.values():
        masks, end_to_end = (
            "" if value is None else f"{value:.1f}"
            for value in (card.published_mask_map, card.published_end_to_end_map)
        )
        print(
            f"{card.name:12} {card.task:8} {card.published_map:8.1f} {masks:>6} {end_to_end:>11} "
            f"{card.params_m:9.1f} {card.gflops_640:11.1f}  {card.weights_file} ({card.licence})"
        )
    print_list()


def _train(arguments: argparse.Namespace) -> None:
    from dataclasses import fields

    from .dataset import image_size
    from .train import TrainConfig, resolve_device, train

    device = resolve_device(arguments.device)
    if _is_semantic(arguments):
        run_train(arguments, device=device)
        return
    side, width = image_size(arguments.imgsz)
    if side != width:
        raise OptionError(f"--imgsz {arguments.imgsz}: YOLO trains on squares; give one number")
    values = {field.name: getattr(arguments, field.name) for field in fields(TrainConfig)}
    config = TrainConfig(**values | {"device": device, "imgsz": side})
    metrics = train(config, data=arguments.data, out=arguments.out, work=arguments.work)
    masks = f", mask_map {metrics['mask_map']:.3f}" if "mask_map" in metrics else ""
    print(
        f"{arguments.out}: {metrics['model']}, best of {metrics['epochs']} epochs is "
        f"{metrics['best_epoch']}, map50 {metrics['map50']:.3f}, map {metrics['map']:.3f}{masks}, "
        f"{metrics['precision']}"
    )


def _is_semantic(arguments: argparse.Namespace) -> bool:
    from .semantic.registry import SEMANTIC

    if arguments.model or not arguments.weights:
        return arguments.model in SEMANTIC
    from .semantic.checkpoint import is_semantic, load_semantic

    if is_semantic(Path(arguments.weights)):
        arguments.model = load_semantic(Path(arguments.weights))[1].arch
    return bool(arguments.model)


def _export(arguments: argparse.Namespace) -> None:
    from .semantic.checkpoint import is_semantic

    if is_semantic(arguments.checkpoint):
        run_export(arguments)
        return
    from .export import export
    from .prepare import parse_head

    result = export(
        checkpoint=arguments.checkpoint,
        data=arguments.data,
        head=parse_head(arguments.head),
        out=arguments.out,
        size=arguments.imgsz,
        branch=arguments.branch,
    )
    outputs = ", ".join(f"{name} {list(shape)}" for name, shape in result.outputs.items())
    print(f"{result.path}: {outputs}; ONNX Runtime agrees with torch to {result.deviation:.1e}")


def _import(arguments: argparse.Namespace) -> None:
    from .dataset import image_size, read_dataset
    from .importing import import_checkpoint
    from .semantic.checkpoint import import_semantic, is_semantic

    size = image_size(arguments.imgsz) if arguments.imgsz else None
    card: CheckpointCard | SemanticCheckpoint
    if is_semantic(arguments.file):
        card = import_semantic(arguments.file, out=arguments.out, size=size, data=arguments.data)
    else:
        dataset = read_dataset(arguments.data) if arguments.data else None
        card = import_checkpoint(arguments.file, out=arguments.out, size=size, dataset=dataset)
    height, width = card.image_size
    print(f"{arguments.out}: {card.arch} ({card.task}), {len(card.names)} classes, at {height}x{width}")


def _browser(arguments: argparse.Namespace) -> None:
    from .browser.folder import write_browser

    told = write_browser(
        float_file=arguments.float,
        quantized_file=arguments.quantized,
        data=arguments.data,
        out=arguments.out,
        images=arguments.images,
    )
    sizes = ", ".join(
        f"{name} {facts['bytes'] / 1e6:.1f} MB, {facts['cpu_ms']:.0f} ms"
        for name, facts in told["files"].items()
    )
    print(
        f"{arguments.out}: {sizes} (ONNX Runtime, {told['threads']} threads), equal on "
        f"{100 * told['equal_pixels']:.2f}% of the pixels; npm install and npm start there"
    )


if __name__ == "__main__":
    sys.exit(main())
