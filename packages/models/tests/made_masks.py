"""A few images of coloured rectangles on two kinds of ground, with masks."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from hexpath_models.semantic.checkpoint import SemanticCheckpoint, save_semantic
from hexpath_models.semantic.registry import build_semantic, find_semantic

NAMES = {0: "ground", 1: "red", 2: "blue"}
COLORS = {0: (90, 110, 80), 1: (220, 40, 40), 2: (40, 60, 230)}


def write_masks(root: Path, *, train: int = 8, val: int = 4, size: int = 64, ignore: int = 255) -> Path:
    """Write images and masks, and return data.yaml; one corner is to be ignored."""
    numbers = random.Random(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image, mask = Image.new("RGB", (size, size), COLORS[0]), Image.new("L", (size, size), 0)
            for kind in (1, 2):
                w, h = numbers.randint(16, 32), numbers.randint(16, 32)
                x, y = numbers.randint(0, size - w), numbers.randint(0, size - h)
                for target, fill in ((image, COLORS[kind]), (mask, kind)):
                    ImageDraw.Draw(target).rectangle([x, y, x + w - 1, y + h - 1], fill=fill)
            ImageDraw.Draw(mask).rectangle([0, 0, 3, 3], fill=ignore)
            image.save(root / "images" / split / f"{index:03}.png")
            mask.save(root / "masks" / split / f"{index:03}.png")
    data = root / "data.yaml"
    data.write_text(
        "path: .\ntrain: images/train\nval: images/val\nmasks: {train: masks/train, val: masks/val}\n"
        f"ignore: {ignore}\nnames: {{0: ground, 1: red, 2: blue}}\nfingerprint: sha256:test\n"
    )
    return data


def write_checkpoint(path: Path, *, model: str = "ddrnet23_slim", **options: str) -> Path:
    """Write a network with random weights and plausible statistics."""
    torch.manual_seed(0)
    network = build_semantic(find_semantic(model), classes=3, options=options)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 3, 64, 64))
    card = SemanticCheckpoint(
        arch=model, names=NAMES, image_size=(64, 64), fingerprint="sha256:test", options=options
    )
    save_semantic(path, network, card=card)
    return path
