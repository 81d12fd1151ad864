"""Augmentation of an image with its mask; everything depends on the generator alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .dataset import IGNORE

SCALES = (0.5, 2.0)
FLIP = 0.5
SHADOW, ERASE = 0.3, 0.2  # probabilities
GREY = 114.0


def _uniform(generator: Generator, low: float, high: float) -> float:
    return float(torch.rand((), generator=generator)) * (high - low) + low


def stretch(image: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Resize uint8 (3, h, w) bilinearly, without antialiasing, to uint8 (3, *size), as at deployment."""
    if tuple(image.shape[-2:]) == size:
        return image
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return (resized + 0.5).floor().clamp(0, 255).to(torch.uint8)


def augment(
    image: Tensor,
    mask: Tensor,
    *,
    size: tuple[int, int],
    generator: Generator,
    deployed: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return float32 (3, H, W) in [0, 1] and uint8 (H, W): scaled, cropped, flipped, recoloured and worse.

    image: uint8 (3, h, w); mask: uint8 (h, w). `size` is the crop's; beyond the image the mask is IGNORE.
    deployed: size at which the network will see whole images; scales are relative to it (default: `size`).
    """
    pixels, classes = _scale_and_crop(image, mask, size=size, deployed=deployed or size, generator=generator)
    if _uniform(generator, 0, 1) < FLIP:
        pixels, classes = pixels.flip(-1), classes.flip(-1)
    pixels = _photometric(pixels / 255, generator)
    if _uniform(generator, 0, 1) < SHADOW:
        pixels = _shadow(pixels, generator)
    if _uniform(generator, 0, 1) < ERASE:
        pixels = _erase(pixels, generator)
    return pixels, classes


def _scale_and_crop(
    image: Tensor,
    mask: Tensor,
    *,
    size: tuple[int, int],
    deployed: tuple[int, int],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Cut the window that `size` covers at a random scale, and resize it: cheaper than resizing all of it."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    scale = _uniform(generator, *SCALES) * max(deployed[0] / height, deployed[1] / width)
    window = [max(1, round(side / scale)) for side in size]
    corner = []
    for have, want in zip((height, width), window, strict=True):
        low, high = sorted((0.0, float(have - want)))
        corner.append(round(_uniform(generator, low, high)))
    (top, left), (rows, columns) = corner, window
    inside = image[:, max(top, 0) : top + rows, max(left, 0) : left + columns].float()
    kinds = mask[max(top, 0) : top + rows, max(left, 0) : left + columns]
    pad = [max(-left, 0), 0, max(-top, 0), 0]
    pad[1], pad[3] = columns - kinds.shape[1] - pad[0], rows - kinds.shape[0] - pad[2]
    pixels = F.pad(inside, pad, value=GREY)[None]
    kinds = F.pad(kinds, pad, value=IGNORE)[None, None]
    pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
    return pixels, F.interpolate(kinds, size=size, mode="nearest")[0, 0]


def _photometric(pixels: Tensor, generator: Generator) -> Tensor:
    """Change brightness, contrast and saturation by up to 30% each."""
    brightness, contrast, saturation = (_uniform(generator, 0.7, 1.3) for _ in range(3))
    pixels = pixels * brightness
    mean = pixels.mean()
    pixels = (pixels - mean) * contrast + mean
    grey = pixels.mean(0, keepdim=True)
    return ((pixels - grey) * saturation + grey).clamp(0, 1)


def _shadow(pixels: Tensor, generator: Generator) -> Tensor:
    """Darken one side of a random line, with a soft border."""
    height, width = pixels.shape[-2:]
    angle = _uniform(generator, 0, 2 * torch.pi)
    offset, depth = _uniform(generator, -0.3, 0.3), _uniform(generator, 0.3, 0.7)
    y = torch.linspace(-0.5, 0.5, height)[:, None]
    x = torch.linspace(-0.5, 0.5, width)[None]
    side = y * torch.sin(torch.tensor(angle)) + x * torch.cos(torch.tensor(angle)) - offset
    return pixels * (1 - depth * torch.sigmoid(side * 40))


def _erase(pixels: Tensor, generator: Generator) -> Tensor:
    """Fill a rectangle of up to a fifth of each side's square with noise; its classes stay to be guessed."""
    height, width = pixels.shape[-2:]
    rows, columns = (max(1, round(_uniform(generator, 0.05, 0.2) * side)) for side in (height, width))
    top, left = round(_uniform(generator, 0, height - rows)), round(_uniform(generator, 0, width - columns))
    pixels = pixels.clone()
    pixels[:, top : top + rows, left : left + columns] = torch.rand(3, rows, columns, generator=generator)
    return pixels
