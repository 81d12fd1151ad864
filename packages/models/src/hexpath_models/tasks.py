"""Tasks: what a quantizer needs to know of a model to calibrate, train and score it.

They satisfy `hexpath_quant.task.Task` by their shape alone; nothing of that package is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointCard, load_checkpoint
from .dataset import Dataset, check_classes, image_size, read_dataset
from .errors import LossError, OptionError, nearest
from .loading import (
    LIGHT_AUGMENTATION,
    collate,
    default_settings,
    listed,
    open_split,
    seeded,
    shuffled,
    spread,
    to_float,
)
from .prepare import (
    Branch,
    Decode,
    Head,
    PreparedDetector,
    choose_branch,
    parse_branch,
    parse_head,
    prepare,
)
from .scoring import Score, score

_OPTIONS = ("head", "branch", "imgsz", "device", "workers", "images", "calibration")
_VALIDATION_BATCH = 16
_CALIBRATION_BATCH = 8
_KEPT_BYTES = 1 << 29  # validation images up to half a gigabyte stay decoded in memory between evaluations


def yolo_detect(*, checkpoint: Path, data: Path, options: Mapping[str, str] | None = None) -> DetectionTask:
    """Return the task of quantizing a YOLO detector.

    options: head = raw (default), decoded or plain; branch = one-to-one (default where the network has it)
    or one-to-many; imgsz = 320 or 544x640 (default: the checkpoint's); images = how many validation images
    evaluate() uses (default: all); calibration = a list of training images, one a line, the first of which
    are taken (default: spread over the split); device, workers.
    Raises OptionError, DataFileError, ClassMismatchError and what load_checkpoint raises.
    """
    return _yolo(checkpoint, data, options or {}, task="detect")


def yolo_segment(*, checkpoint: Path, data: Path, options: Mapping[str, str] | None = None) -> DetectionTask:
    """Return the task of quantizing a YOLO network for instance masks; options as of yolo_detect."""
    return _yolo(checkpoint, data, options or {}, task="segment")


def yolo(*, checkpoint: Path, data: Path, options: Mapping[str, str] | None = None) -> DetectionTask:
    """Return the task that the checkpoint is for, detection or segmentation; options as of yolo_detect."""
    return _yolo(checkpoint, data, options or {}, task=None)


def _yolo(checkpoint: Path, data: Path, options: Mapping[str, str], *, task: str | None) -> DetectionTask:
    settings = _checked_options(options, task=task)
    dataset = read_dataset(Path(data))
    model, card = load_checkpoint(Path(checkpoint), task=task)
    check_classes(dataset, card.names, checkpoint=Path(checkpoint))
    return DetectionTask(
        model=model,
        card=card,
        dataset=dataset,
        head=parse_head(settings.get("head", Head.RAW)),
        branch=parse_branch(settings["branch"]) if "branch" in settings else None,
        size=image_size(settings["imgsz"]) if "imgsz" in settings else card.image_size,
        device=settings.get("device", "cpu"),
        image_limit=_positive("images", settings["images"]) if "images" in settings else None,
        calibration_list=Path(settings["calibration"]) if "calibration" in settings else None,
    )


def _checked_options(options: Mapping[str, str], *, task: str | None) -> dict[str, str]:
    for name in options:
        if name not in _OPTIONS:
            own = f"yolo-{task}" if task else "yolo"
            raise OptionError(f"unknown option {name!r} of {own}; {nearest(name, _OPTIONS)}")
    return dict(options)


def _positive(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"option {name}={text!r} must be a positive number")
    return int(text)


class DetectionTask:
    """A trained detector, its data and Ultralytics' own loss and metric; see the Task protocol.

    With a segmentation network the same of instance masks: what differs is the head, the loss and the metric.
    """

    input_names: tuple[str, ...] = ("images",)

    def __init__(
        self,
        *,
        model: nn.Module,
        card: CheckpointCard,
        dataset: Dataset,
        head: Head,
        size: tuple[int, int],
        branch: Branch | None = None,
        device: str = "cpu",
        image_limit: int | None = None,
        calibration_list: Path | None = None,
    ) -> None:
        self.name = f"yolo-{card.task}"
        self.card, self.dataset, self.head, self.size = card, dataset, head, size
        self.device = torch.device(device)
        self._model: Any = model
        self._model.args = default_settings(task=card.task)
        self._image_limit = image_limit
        self._calibration_list = calibration_list
        self.branch = choose_branch(self._detect, head=head, wanted=branch)
        prepared = prepare(model, head=head, image_size=size, branch=self.branch)
        self.output_names: tuple[str, ...] = prepared.output_names
        self._decode = Decode(self._detect, size).eval()
        self._loss: Any = None
        self._splits: dict[tuple[str, bool], Any] = {}
        self._kept: dict[int, list[dict[str, Any]]] = {}
        self.metadata: Mapping[str, str] = onnx_metadata(
            card, head=head, branch=self.branch, size=size, detect=self._detect
        )

    @property
    def _detect(self) -> Any:
        return self._model.model[-1]

    @property
    def example(self) -> Tensor:
        """float32 (1, 3, H, W): the first sample, so that traced ranges are those of an image."""
        return self.samples(1)

    def float_model(self) -> PreparedDetector:
        """Return a fresh static network in evaluation mode, parameters trainable, BatchNorm not folded."""
        network = prepare(self._model, head=self.head, image_size=self.size, branch=self.branch)
        return network.to(self.device)

    def calibration(self, count: int) -> Iterator[Tensor]:
        """Yield float32 (B, 3, H, W) in [0, 1] of the training split, letterboxed only.

        The images are spread over the split, or the first of the list that the task was given. Raises
        DataFileError for a list that is missing, empty, or names other images.
        """
        source = self._split("train")
        if self._calibration_list is None:
            indices = spread(count, len(source))
        else:
            indices = listed(self._calibration_list, images=[Path(f) for f in source.im_files])[:count]
        for start in range(0, len(indices), _CALIBRATION_BATCH):
            batch = collate(source, indices[start : start + _CALIBRATION_BATCH])
            yield to_float(batch["img"]).to(self.device)

    def samples(self, count: int) -> Tensor:
        """Return float32 (count, 3, H, W) in [0, 1], spread over the validation split."""
        source = self._split("val")
        return to_float(collate(source, spread(count, len(source)))["img"]).to(self.device)

    def steps(self, batch: int) -> int:
        """Return the number of training batches an epoch; a smaller last one is left out."""
        return max(1, len(self._split("train")) // batch)

    def training(self, *, batch: int, epoch: int, seed: int) -> Iterator[dict[str, Any]]:
        """Yield one epoch of lightly augmented batches that depend on (batch, epoch, seed) alone."""
        source = self._split("train", augment=True)
        order = shuffled(len(source), seed=seed, epoch=epoch)
        for step in range(self.steps(batch)):
            with seeded(seed, epoch, step):
                result = collate(source, order[step * batch : (step + 1) * batch])
            yield result

    def images(self, batch: dict[str, Any]) -> Tensor:
        """Return float32 (B, 3, H, W) in [0, 1] of a training batch."""
        return to_float(batch["img"]).to(self.device)

    def loss(self, outputs: tuple[Tensor, ...], batch: dict[str, Any]) -> Tensor:
        """Return Ultralytics' own loss of this branch (a scalar, mean over the images), in float32.

        Raises LossError for a head whose outputs are decoded already.
        """
        if self.head is not Head.RAW:
            raise LossError(f"the loss needs raw outputs, this task has head={self.head}; use head=raw")
        if self._loss is None:
            from .losses import RawLoss

            self._loss = RawLoss(self._model.to(self.device), branch=self.branch)
        return self._loss(outputs, batch)  # type: ignore[no-any-return]

    def evaluate(
        self, forward: Callable[[Tensor], tuple[Tensor, ...]], images: int | None = None
    ) -> dict[str, float]:
        """Return {"map", "map50"} of `forward` (images to this head's outputs) on the validation split.

        With masks also "mask_map" and "mask_map50", in front of those. images: only so many, the first ones.
        """
        return self.score(forward, images=images).as_metrics()

    def evaluate_classes(
        self, forward: Callable[[Tensor], tuple[Tensor, ...]], images: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Return evaluate()'s figures by class name, for the classes that the images show."""
        return self.score(forward, images=images).per_class

    def score(self, forward: Callable[[Tensor], tuple[Tensor, ...]], *, images: int | None = None) -> Score:
        """Return what evaluate() returns, and the same by class."""

        def predict(images: Tensor) -> tuple[Tensor, ...]:
            return self._as_plain(tuple(output.float().cpu() for output in forward(images.to(self.device))))

        return score(
            predict,
            self._validation(images or self._image_limit),
            source=self._split("val"),
            names=self.card.names,
            task=self.card.task,
            end_to_end=self.branch is Branch.ONE_TO_ONE,
        )

    def _as_plain(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what Ultralytics' validator takes: one tensor of detections, and the prototypes."""
        if self.head is not Head.PLAIN:
            decoded = self._decode(outputs) if self.head is Head.RAW else outputs
            outputs = (torch.cat(decoded[:3], 1), *decoded[3:])
        if self.branch is Branch.ONE_TO_ONE:
            outputs = (_best(self._detect, outputs[0]), *outputs[1:])
        return outputs

    def _split(self, name: str, *, augment: bool = False) -> Any:
        if (name, augment) not in self._splits:
            self._splits[name, augment] = open_split(
                self.dataset,
                split=name,
                image_size=self.size,
                settings=_split_settings(augment, task=self.card.task),
                augment=augment,
                task=self.card.task,
            )
        return self._splits[name, augment]

    def _validation(self, limit: int | None) -> Iterator[dict[str, Any]]:
        source = self._split("val")
        total = min(len(source), limit or len(source))
        if total in self._kept:
            yield from self._kept[total]
            return
        kept: list[dict[str, Any]] = []
        keep = total * 3 * self.size[0] * self.size[1] <= _KEPT_BYTES
        for start in range(0, total, _VALIDATION_BATCH):
            batch = collate(source, list(range(start, min(start + _VALIDATION_BATCH, total))))
            if keep:
                kept.append(batch)
            yield batch
        if keep:
            self._kept = {total: kept}


def _best(detect: Any, plain: Tensor) -> Tensor:
    """Return the best detections (N, up to 300, 6 + extra) of a one-to-one branch, by Ultralytics' own code.

    plain: (N, 4 + nc + extra, A), boxes xywh; returned boxes are xyxy, then score and class.
    """
    centre, size = plain[:, :2], plain[:, 2:4]
    corners = torch.cat([centre - size / 2, centre + size / 2, plain[:, 4:]], 1)
    return detect.postprocess(corners.permute(0, 2, 1))  # type: ignore[no-any-return]


def _split_settings(augment: bool, *, task: str) -> SimpleNamespace:
    return default_settings(task=task, **(LIGHT_AUGMENTATION if augment else {}))


def onnx_metadata(
    card: CheckpointCard, *, head: Head, branch: Branch, size: tuple[int, int], detect: Any
) -> dict[str, str]:
    """Return the metadata_props of an exported model: Ultralytics' keys and hexpath's."""
    return {
        "task": card.task,
        "names": str(card.names),
        "imgsz": str(list(size)),
        "stride": str(card.stride),
        "batch": "1",
        "hexpath.schema": "1",
        "hexpath.model": card.arch,
        "hexpath.fingerprint": card.fingerprint,
        "hexpath.input": json.dumps(
            {
                "name": "images",
                "layout": "NCHW",
                "color": "RGB",
                "range": [0, 1],
                "resize": "letterbox",
                "pad_value": 114,
            }
        ),
        "hexpath.outputs": json.dumps(_output_description(head, branch=branch, detect=detect)),
    }


def _output_description(head: Head, *, branch: Branch, detect: Any) -> dict[str, Any]:
    masks = hasattr(detect, "proto")
    cut = {"head": str(branch), "nms": branch is Branch.ONE_TO_MANY}
    if head is Head.PLAIN:
        return {
            "format": "yolo-plain",
            "output": "output0",
            **({"prototypes": "output1"} if masks else {}),
            **cut,
        }
    prototypes = {"prototypes": "prototypes"} if masks else {}
    kinds = ("boxes", "scores", "masks") if masks else ("boxes", "scores")
    if head is Head.DECODED:
        return {"format": "yolo-decoded", **{kind: kind for kind in kinds}, **prototypes, **cut}
    steps = [int(stride) for stride in detect.stride.tolist()]
    return {
        "format": "yolo-raw",
        "reg_max": int(detect.reg_max),
        "scores": "logits",
        "levels": [{"stride": step, **{kind: f"{kind}_{step}" for kind in kinds}} for step in steps],
        **prototypes,
        **cut,
    }
