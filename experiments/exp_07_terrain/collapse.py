"""When does INT8 destroy the attention? The same function with other scales of its tensors, at other sizes.

    .nox/hexpath/bin/python experiments/exp_07_terrain/collapse.py --checkpoint model.safetensors \\
        --data data.yaml --out FOLDER [--factors 1,16,256] [--sizes 544x640,272x320] [--images 20]

Multiplying v by a factor and dividing the projection behind the attention by it changes nothing in float. In
the authors' form numerator and denominator share one 8-bit scale, and a larger v moves the denominator down
on its grid, until it falls below the first step. Times 0 the attention is switched off: what the network owes
to it. Other sizes change how many tokens a sum is over. Each row is quantized at W8A8 by min-max in both
forms and scored in the simulation; a number that FOLDER holds is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from hexpath_models.files import write_atomic
from hexpath_models.nets.efficientvit import HEAD_DIM, LinearAttention
from hexpath_models.semantic.checkpoint import load_semantic, save_semantic
from hexpath_models.semantic.task import semantic
from hexpath_quant.lean import LeanTwin
from hexpath_quant.plans import parse_plan
from hexpath_quant.ptq import simulate
from hexpath_quant.sim import forward_of

FORMS = ("joint", "split")


def main() -> int:
    """Print a Markdown table: mIoU in percent of float and of each form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="of efficientvit_seg_b1")
    parser.add_argument("--data", type=Path, required=True, help="data.yaml of images with id masks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factors", default="0,1,4,16,64,256", help="of v")
    parser.add_argument("--sizes", default="544x640", help="height x width")
    parser.add_argument("--images", type=int, default=20, help="of the validation split")
    parser.add_argument("--calibration", type=int, default=12, help="images")
    args = parser.parse_args()
    names = ("float", *FORMS)
    print(f"| size | v times | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}", flush=True)
    for size in args.sizes.split(","):
        for factor in map(float, args.factors.split(",")):
            scores = [f"{100 * score(name, size=size, factor=factor, args=args):.1f}" for name in names]
            print(f"| {size} | {factor:g} | {' | '.join(scores)} |", flush=True)
    return 0


def score(name: str, *, size: str, factor: float, args: argparse.Namespace) -> float:
    """Return the mIoU, in [0, 1], of the float network or of a form's simulation."""
    kept = args.out / f"{name}-{size}-v{factor:g}.json"
    if kept.exists():
        return float(json.loads(kept.read_text())["miou"])
    checkpoint = args.out / f"v{factor:g}.safetensors"
    if not checkpoint.exists():
        enlarge_values(args.checkpoint, factor=factor, out=checkpoint)
    form = FORMS[0] if name == "float" else name
    task: Any = semantic(checkpoint=checkpoint, data=args.data, options={"imgsz": size, "attention": form})
    if name == "float":
        network = task.float_model()
    else:
        plan = parse_plan("w8a8")
        network = LeanTwin(
            simulate(task, plan=plan, method="minmax", calibration=args.calibration), dtype=torch.float32
        )
    with torch.inference_mode():
        found = task.evaluate(forward_of(network.eval()), images=args.images)
    write_atomic(kept, json.dumps(found))
    return float(found["miou"])


def enlarge_values(source: Path, *, factor: float, out: Path) -> None:
    """Write the checkpoint with v times `factor` and, but for 0, each projection behind it divided by it."""
    network, card = load_semantic(source)
    for module in network.modules():
        if isinstance(module, LinearAttention):
            heads = module.qkv.conv.weight.data.unflatten(0, (-1, 3, HEAD_DIM))
            heads[:, 2] *= factor
            module.proj.conv.weight.data /= factor or 1
    out.parent.mkdir(parents=True, exist_ok=True)
    save_semantic(out, network, card=card)


if __name__ == "__main__":
    sys.exit(main())
