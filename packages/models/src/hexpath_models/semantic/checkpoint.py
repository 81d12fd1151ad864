"""model.safetensors of a segmentation network: float32 weights with what is needed to use them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from ..checkpoint import SCHEMA, _check_finite, _in_fixed_order, _read, check_metadata, load_weights
from ..errors import CheckpointMetadataError, WrongTaskError
from ..files import write_atomic
from .dataset import check_names, read_semantic
from .network import SemanticNetwork
from .registry import SemanticCard, build_semantic, find_semantic

_REQUIRED = ("hexpath.schema", "arch", "task", "names", "imgsz", "stride", "fingerprint", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class SemanticCheckpoint:
    """The metadata of a checkpoint; `image_size` is (height, width), `options` those of the architecture."""

    task: ClassVar[str] = "semantic"

    arch: str
    names: dict[int, str]
    image_size: tuple[int, int]
    fingerprint: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> SemanticCard:
        """The registry's card of the architecture."""
        return find_semantic(self.arch)

    def as_metadata(self) -> dict[str, str]:
        """Return the strings that stand in the safetensors header."""
        return {
            "hexpath.schema": SCHEMA,
            "arch": self.arch,
            "task": self.task,
            "names": json.dumps({str(key): name for key, name in self.names.items()}),
            "imgsz": json.dumps(list(self.image_size)),
            "stride": str(self.model.stride),
            "fingerprint": self.fingerprint,
            "mean": json.dumps(list(self.model.mean)),
            "std": json.dumps(list(self.model.std)),
            "options": json.dumps(self.options, sort_keys=True),
        }


def save_semantic(path: Path, network: SemanticNetwork, *, card: SemanticCheckpoint) -> None:
    """Write weights and card, whole or not at all; raise NonFiniteWeightsError before that."""
    from safetensors.torch import save

    state = {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    _check_finite(state, path)
    write_atomic(path, _in_fixed_order(save(state, metadata=card.as_metadata())))


def load_semantic(
    path: Path, *, options: dict[str, str] | None = None
) -> tuple[SemanticNetwork, SemanticCheckpoint]:
    """Return the network in evaluation mode, float32, and the card.

    options: of the architecture, in place of those that it was trained with (attention=split, floor=...).
    Raises MissingCheckpointError, CorruptCheckpointError, CheckpointMetadataError, WrongTaskError,
    UnknownModelError, OptionError, WeightShapeError, NonFiniteWeightsError.
    """
    metadata, state = _read(path, tensors=True)
    card = _card(path, metadata)
    _check_finite(state, path)
    network = build_semantic(card.model, classes=len(card.names), options={**card.options, **(options or {})})
    load_weights(network, state, origin=path)
    return network.eval(), card


def read_semantic_card(path: Path) -> SemanticCheckpoint:
    """Read and check the metadata alone; see load_semantic for the errors."""
    return _card(path, _read(path, tensors=False)[0])


def import_semantic(
    source: Path, *, out: Path, size: tuple[int, int] | None = None, data: Path | None = None
) -> SemanticCheckpoint:
    """Write a checkpoint again, to be deployed at another size or with another dataset of its classes.

    size: (height, width) in pixels. data: a data.yaml of images and masks, checked to have the checkpoint's
    classes; its fingerprint goes into the card. Raises what load_semantic raises, DataFileError and
    ClassMismatchError.
    """
    network, card = load_semantic(source)
    card = replace(card, image_size=size or card.image_size)
    if data is not None:
        dataset = read_semantic(data)
        check_names(dataset, card.names, checkpoint=source)
        card = replace(card, fingerprint=dataset.fingerprint)
    save_semantic(out, network, card=card)
    return card


def is_semantic(path: Path) -> bool:
    """Return whether a checkpoint is of this task; False also for what is no checkpoint."""
    from ..errors import ModelError

    try:
        return path.suffix == ".safetensors" and _read(path, tensors=False)[0].get("task") == "semantic"
    except ModelError:
        return False


def _card(path: Path, metadata: dict[str, str]) -> SemanticCheckpoint:
    if metadata.get("task", "semantic") != "semantic":
        raise WrongTaskError(
            f"{path} is a checkpoint for {metadata['task']!r}, this needs one for 'semantic'"
        )
    check_metadata(path, metadata, required=_REQUIRED)
    try:
        card, normalization = _parse(metadata)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointMetadataError(f"{path} has unreadable metadata: {error}; write it anew") from error
    own = (list(card.model.mean), list(card.model.std))
    if normalization != own:
        raise CheckpointMetadataError(
            f"{path} was trained with mean {normalization[0]} and std {normalization[1]}, {card.arch} has "
            f"{own[0]} and {own[1]}; train again"
        )
    return card


def _parse(metadata: dict[str, str]) -> tuple[SemanticCheckpoint, tuple[Any, Any]]:
    names = json.loads(metadata["names"])
    height, width = json.loads(metadata["imgsz"])
    card = SemanticCheckpoint(
        arch=metadata["arch"],
        names={int(key): str(name) for key, name in names.items()},
        image_size=(int(height), int(width)),
        fingerprint=metadata["fingerprint"],
        options=dict(json.loads(metadata.get("options", "{}"))),
    )
    return card, (json.loads(metadata["mean"]), json.loads(metadata["std"]))
