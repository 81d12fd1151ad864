"""The task `semantic`: what a quantizer needs to calibrate, train and score a segmentation network.

It satisfies `hexpath_quant.task.Task` by its shape alone; nothing of that package is imported.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataset import image_size
from ..errors import OptionError, nearest
from ..loading import shuffled, spread
from ..nets.equalize import equalize_attention
from .augment import augment, stretch
from .checkpoint import SemanticCheckpoint, load_semantic, read_semantic_card
from .dataset import Item, SemanticDataset, check_names, read_semantic
from .losses import LOSSES
from .network import SemanticNetwork
from .scoring import Score, score

OPTIONS = ("imgsz", "crop", "images", "device", "loss", "output", "head", "workers", "equalize")
_BATCH = 4
_KEPT_BYTES = 1 << 29  # decoded images up to half a gigabyte stay in memory
_STEP_SEED = 1_000_003

Batch = tuple[Tensor, Tensor]


def semantic(*, checkpoint: Path, data: Path, options: Mapping[str, str] | None = None) -> SemanticTask:
    """Return the task of quantizing a segmentation network.

    options: imgsz = 320 or 544x640 (default: the checkpoint's); crop = size of the windows that training sees
    (default: imgsz); images = how many validation images a score uses (default: all); loss = focal,
    cross-entropy (default) or ohem; output = logits (default: at 1/stride) or full (upsampled to the input
    inside the graph); equalize = images on which the heads of a linear attention are brought onto one scale
    (default: they are left as they are); device; and the architecture's own.
    Raises OptionError, DataFileError, ClassMismatchError and what load_semantic raises.
    """
    given = dict(options or {})
    own = {key: given.pop(key) for key in tuple(given) if key in OPTIONS}
    dataset = read_semantic(Path(data))
    network, card = load_semantic(Path(checkpoint), options=_architecture(Path(checkpoint), given))
    check_names(dataset, card.names, checkpoint=Path(checkpoint))
    return SemanticTask(
        network=network,
        card=card,
        dataset=dataset,
        size=image_size(own["imgsz"]) if "imgsz" in own else card.image_size,
        crop=image_size(own["crop"]) if "crop" in own else None,
        device=own.get("device", "cpu"),
        image_limit=_positive("images", own["images"]) if "images" in own else None,
        loss=_one_of("loss", own.get("loss", "cross-entropy"), tuple(LOSSES)),
        output=_one_of("output", own.get("output", "logits"), ("logits", "full")),
        equalize=_positive("equalize", own["equalize"]) if "equalize" in own else 0,
    )


def _architecture(checkpoint: Path, given: dict[str, str]) -> dict[str, str]:
    """Check the remaining options against the checkpoint's architecture; an unknown one has a near name."""
    allowed = read_semantic_card(checkpoint).model.options
    for name in given:
        if name not in allowed:
            raise OptionError(f"unknown option {name!r} of semantic; {nearest(name, (*OPTIONS, *allowed))}")
    return given


def _positive(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"option {name}={text!r} must be a positive number")
    return int(text)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise OptionError(f"option {name}={value!r}; {nearest(value, allowed)}")
    return value


class FullSize(nn.Module):
    """The network with its logits upsampled to the input inside the graph: what not to do on the NPU."""

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """RGB (B, 3, H, W) in [0, 1] to logits (B, classes, H, W)."""
        logits = self.network(images)[0]
        return (F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False),)


class SemanticTask:
    """A segmentation network, its data, a loss and mIoU; see the Task protocol."""

    name = "semantic"
    input_names: tuple[str, ...] = ("images",)
    output_names: tuple[str, ...] = ("logits",)

    def __init__(
        self,
        *,
        network: SemanticNetwork,
        card: SemanticCheckpoint,
        dataset: SemanticDataset,
        size: tuple[int, int],
        crop: tuple[int, int] | None = None,
        device: str = "cpu",
        image_limit: int | None = None,
        loss: str = "cross-entropy",
        output: str = "logits",
        equalize: int = 0,
    ) -> None:
        self.card, self.dataset, self.size, self.crop = card, dataset, size, crop or size
        self.device = torch.device(device)
        self._network, self._limit, self._loss, self._output = network, image_limit, LOSSES[loss], output
        self._kept: dict[Item, tuple[Tensor, Tensor]] = {}
        self._kept_bytes = 0
        stride = 1 if output == "full" else card.model.stride
        self.metadata: Mapping[str, str] = onnx_metadata(card, size=size, stride=stride)
        if equalize:
            equalize_attention(self._network.eval().to(self.device), self.calibration(equalize))

    @property
    def example(self) -> Tensor:
        """float32 (1, 3, H, W): the first sample, so that traced ranges are those of an image."""
        return self.samples(1)

    def float_model(self) -> nn.Module:
        """Return a fresh copy in evaluation mode: images to (logits,)."""
        copied = copy.deepcopy(self._network).eval()
        if hasattr(copied.net, "deployed"):
            copied.net = copied.net.deployed()  # type: ignore[operator]
        network: nn.Module = copied
        if self._output == "full":
            network = FullSize(network, self.size)
        return network.eval().to(self.device)

    def calibration(self, count: int) -> Iterator[Tensor]:
        """Yield float32 (B, 3, H, W) in [0, 1]: images spread over the training split, resized only."""
        items = self.dataset.train
        chosen = [items[index] for index in spread(count, len(items))]
        for start in range(0, len(chosen), _BATCH):
            yield self._images(chosen[start : start + _BATCH])

    def samples(self, count: int) -> Tensor:
        """Return float32 (count, 3, H, W) in [0, 1], spread over the validation split."""
        items = self.dataset.val
        return self._images([items[index] for index in spread(count, len(items))])

    def steps(self, batch: int) -> int:
        """Return the number of training batches an epoch; a smaller last one is left out."""
        return max(1, len(self.dataset.train) // batch)

    def training(self, *, batch: int, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of augmented (images, masks) that depend on (batch, epoch, seed) alone."""
        items = self.dataset.train
        order = shuffled(len(items), seed=seed, epoch=epoch)
        for step in range(self.steps(batch)):
            pairs = []
            for index in order[step * batch : (step + 1) * batch]:
                generator = torch.Generator().manual_seed((seed * _STEP_SEED + epoch) * _STEP_SEED + index)
                image, mask = self._read(items[index])
                pairs.append(augment(image, mask, size=self.crop, deployed=self.size, generator=generator))
            yield torch.stack([pixels for pixels, _ in pairs]), torch.stack([kinds for _, kinds in pairs])

    def images(self, batch: Batch) -> Tensor:
        """Return float32 (B, 3, H, W) in [0, 1] of a training batch."""
        return batch[0].to(self.device)

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Return the loss, a scalar in float32; see losses.py."""
        with torch.autocast(device_type=self.device.type, enabled=False):
            return self._loss(outputs[0].float(), batch[1].to(self.device), None)

    def evaluate(
        self, forward: Callable[[Tensor], tuple[Tensor, ...]], images: int | None = None
    ) -> dict[str, float]:
        """Return {"miou", "pixel_accuracy"} of `forward` on the validation split, or its first images."""
        return self.score(forward, images=images).metrics()

    def evaluate_classes(
        self, forward: Callable[[Tensor], tuple[Tensor, ...]], images: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Return {class: {"iou"}}; a class that does not occur in the masks is left out."""
        return self.score(forward, images=images).per_class

    def score(self, forward: Callable[[Tensor], tuple[Tensor, ...]], *, images: int | None = None) -> Score:
        """Return both."""

        def run(batch: Tensor) -> tuple[Tensor, ...]:
            images = batch.to(self.device, memory_format=torch.channels_last)
            return tuple(output.float().cpu() for output in forward(images))

        return score(run, self._validation(images or self._limit), names=self.card.names)

    def _validation(self, limit: int | None) -> Iterator[tuple[Tensor, list[Tensor]]]:
        items = self.dataset.val
        if limit is not None:
            items = tuple(items[index] for index in spread(min(limit, len(items)), len(items)))
        for start in range(0, len(items), _BATCH):
            part = items[start : start + _BATCH]
            yield self._images(part).cpu(), [self._read(item)[1] for item in part]

    def _images(self, items: Sequence[Item]) -> Tensor:
        pixels = [stretch(self._read(item)[0], size=self.size) for item in items]
        return (torch.stack(pixels).float() / 255).to(self.device)

    def _read(self, item: Item) -> tuple[Tensor, Tensor]:
        if item in self._kept:
            return self._kept[item]
        pair = self.dataset.read(item)
        size = pair[0].numel() + pair[1].numel()
        if self._kept_bytes + size <= _KEPT_BYTES:
            self._kept[item] = pair
            self._kept_bytes += size
        return pair


def onnx_metadata(card: SemanticCheckpoint, *, size: tuple[int, int], stride: int) -> dict[str, str]:
    """Return the metadata_props of an exported model."""
    resize = {"name": "images", "layout": "NCHW", "color": "RGB", "range": [0, 1], "resize": "stretch"}
    return {
        "task": "semantic",
        "names": str(card.names),
        "imgsz": str(list(size)),
        "stride": str(stride),
        "batch": "1",
        "hexpath.schema": "1",
        "hexpath.model": card.arch,
        "hexpath.fingerprint": card.fingerprint,
        "hexpath.input": json.dumps({**resize, "pad_value": 114}),
        "hexpath.outputs": json.dumps(
            {"format": "semantic", "logits": "logits", "stride": stride, "ignore": 255}
        ),
    }
