"""Time of a training step: float32, AIMET's default QAT, ours; one run, interleaved.

    python bench/qat_step.py                                                    # a net of its own
    python bench/qat_step.py --checkpoint model.safetensors --data data.yaml    # the task yolo-detect

CPU seconds (user and system) are compared, so that other load on the machine does not count;
on cuda, wall-clock seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from hexpath_quant.lean import LeanTwin
from hexpath_quant.methods import find_method
from hexpath_quant.plans import parse_plan
from hexpath_quant.prepare import prepare
from hexpath_quant.qat import set_trainable
from hexpath_quant.task import load_task

Step = Callable[[], None]


class Residual(nn.Module):
    """Two convolutions with batch norm and SiLU around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [
            (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
            for _ in "12"
        ]
        self.body = nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def own_net() -> nn.Module:
    """Return a detector-like stack: four stages from 16 to 128 channels."""
    layers: list[nn.Module] = []
    before = 3
    for width in (16, 32, 64, 128):
        layers += [
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
        ]
        layers += [Residual(width)]
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, 64, 1))


def step_of(
    model: Callable[[torch.Tensor], object],
    *,
    parameters: list[nn.Parameter],
    loss: Callable[[object], torch.Tensor],
    images: torch.Tensor,
) -> Step:
    """Return a function that does forward, loss, backward and an AdamW update."""
    optimizer = torch.optim.AdamW(parameters, lr=0.0, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(images)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> int:
    """Print the table and one JSON line."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    build, calibration, images, loss = setting(args)
    float_net = build().to(args.device).train()
    paths: dict[str, Step] = {}
    clear = lambda: images.to(args.device).contiguous(memory_format=torch.channels_last)  # noqa: E731
    paths["float32 training"] = step_of(
        float_net.to(memory_format=torch.channels_last),
        parameters=list(float_net.parameters()),
        loss=loss,
        images=clear(),
    )
    with_cast = build().to(args.device, memory_format=torch.channels_last).train()

    def in_bfloat16(x: torch.Tensor) -> object:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16):
            return with_cast(x)

    paths["bfloat16 training"] = step_of(
        in_bfloat16, parameters=list(with_cast.parameters()), loss=loss, images=clear()
    )
    for name, ranges, lean in (
        ("AIMET's default QAT", "learned", False),
        ("ours, ranges learned", "learned", True),
        ("ours, ranges frozen", "frozen", True),
    ):
        example = calibration[:1].to(args.device)
        sim = find_method("minmax").quantize(
            prepare(build().to(args.device), example=example),
            example=example,
            plan=parse_plan(args.plan),
            batches=lambda: iter([calibration]),
            input_range=(0.0, 1.0),
        )
        set_trainable(sim, ranges=ranges)
        model = LeanTwin(sim, dtype=torch.bfloat16) if lean else sim.model
        parameters = [p for p in sim.model.parameters() if p.requires_grad]
        paths[name] = step_of(
            model, parameters=parameters, loss=loss, images=clear() if lean else images.to(args.device)
        )
    report(measure(paths, rounds=args.steps, device=args.device))
    return 0


def setting(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Return how to build the net, calibration images, training images, the loss."""
    if args.checkpoint is None:
        images = torch.rand(args.batch, 3, args.size, args.size)
        return own_net, images, images, mean_square
    options = {} if args.device == "cpu" else {"device": args.device}
    task = load_task(name="yolo-detect", checkpoint=args.checkpoint, data=args.data, options=options)
    batch = next(iter(task.training(batch=args.batch, epoch=1, seed=0)))
    calibration = next(iter(task.calibration(args.batch))).cpu()
    loss = lambda outputs: task.loss(tuple(o.float() for o in outputs), batch)  # noqa: E731
    return task.float_model, calibration, task.images(batch).cpu(), loss


def mean_square(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A loss for the net without a task, whose lean twin returns a tuple."""
    found = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([output.float().square().mean() for output in found]).sum()


def measure(paths: dict[str, Step], *, rounds: int, device: str) -> dict[str, float]:
    """Return the median seconds of each path's step; the paths take turns."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for index in range(rounds + 1):
        for name, step in paths.items():
            begin = clock()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            if index:  # the first round warms up
                seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(seconds: dict[str, float]) -> None:
    """Print a table of seconds and ratios, and the same as JSON."""
    names = list(seconds)
    print(f"{'path':24} {'ms a step':>10} {'x float32':>10} {'x bfloat16':>11}")
    for name, value in seconds.items():
        print(
            f"{name:24} {1000 * value:10.0f} {value / seconds[names[0]]:10.2f}"
            f" {value / seconds[names[1]]:11.2f}"
        )
    print(json.dumps({name: round(1000 * value, 1) for name, value in seconds.items()}))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--plan", default="w8a8")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=160, help="of the own net's images")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.data is None):
        parser.error("--checkpoint and --data go together")
    return args


if __name__ == "__main__":
    sys.exit(main())
