"""model.safetensors: float32 weights of an unfused YOLO network with what is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architecture import checked_architecture
from .errors import (
    CheckpointMetadataError,
    CorruptCheckpointError,
    MissingCheckpointError,
    NonFiniteWeightsError,
    WeightShapeError,
    WrongTaskError,
)
from .files import write_atomic
from .registry import build_network, find_model

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA = "1"
YOLO_TASKS = ("detect", "segment")
_REQUIRED = ("hexpath.schema", "arch", "task", "names", "imgsz", "stride", "fingerprint", "reg_max")


@dataclass(frozen=True, kw_only=True)
class CheckpointCard:
    """The metadata of a checkpoint; `image_size` is (height, width) in pixels.

    `architecture` is empty for a model of the registry; for any other it holds what Ultralytics' YAML of the
    architecture says, as JSON.
    """

    arch: str
    task: str
    names: dict[int, str]
    image_size: tuple[int, int]
    stride: int
    reg_max: int
    fingerprint: str
    architecture: str = ""

    @property
    def config(self) -> str | dict[str, Any]:
        """What Ultralytics builds the network from: the name of its YAML file, or its content."""
        if not self.architecture:
            return find_model(self.arch).config_file
        content: dict[str, Any] = json.loads(self.architecture)
        return content

    def build(self) -> nn.Module:
        """Return the network with random weights, unfused, in training mode, named classes."""
        return build_network(self.config, task=self.task, names=self.names)

    def as_metadata(self) -> dict[str, str]:
        """Return the strings that stand in the safetensors header."""
        return {
            "hexpath.schema": SCHEMA,
            "arch": self.arch,
            "task": self.task,
            "names": json.dumps({str(key): name for key, name in self.names.items()}),
            "imgsz": json.dumps(list(self.image_size)),
            "stride": str(self.stride),
            "fingerprint": self.fingerprint,
            "reg_max": str(self.reg_max),
        } | ({"architecture": self.architecture} if self.architecture else {})


def save_checkpoint(path: Path, model: nn.Module, *, card: CheckpointCard) -> None:
    """Write weights (floats as float32) and card, whole or not at all.

    Raises NonFiniteWeightsError before anything is written.
    """
    from safetensors.torch import save

    state = {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in model.state_dict().items()
    }
    _check_finite(state, path)
    write_atomic(path, _in_fixed_order(save(state, metadata=card.as_metadata())))


def _in_fixed_order(content: bytes) -> bytes:
    """Sort the header, whose metadata safetensors writes in a random order: equal weights, equal files."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def read_card(path: Path, *, task: str | None = None) -> CheckpointCard:
    """Read and check the metadata alone; see load_checkpoint for the errors."""
    return _card(path, _read(path, tensors=False)[0], task=task)


def load_checkpoint(path: Path, *, task: str | None = None) -> tuple[nn.Module, CheckpointCard]:
    """Return Ultralytics' model in evaluation mode, float32, and the card.

    task: `detect` or `segment` where the caller needs one of them.
    Raises MissingCheckpointError, CorruptCheckpointError, CheckpointMetadataError, WrongTaskError,
    UnknownModelError, WeightShapeError, NonFiniteWeightsError.
    """
    metadata, state = _read(path, tensors=True)
    card = _card(path, metadata, task=task)
    _check_finite(state, path)
    model = card.build()
    load_weights(model, state, origin=path)
    return model.eval(), card


def load_weights(model: nn.Module, state: dict[str, Tensor], *, origin: Path) -> None:
    """Copy the weights into the model; raise WeightShapeError naming the first tensor that does not fit."""
    own = model.state_dict()
    for kind, keys in (
        ("lacks", own.keys() - state.keys()),
        ("has the unknown tensor", state.keys() - own.keys()),
    ):
        if keys:
            raise WeightShapeError(
                f"{origin} {kind} {min(keys)!r} ({len(keys)} such); is it of this architecture?"
            )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            found, expected = tuple(tensor.shape), tuple(own[key].shape)
            raise WeightShapeError(f"{origin}: {key!r} has shape {found}, the architecture needs {expected}")
    model.load_state_dict({key: tensor.to(own[key].dtype) for key, tensor in state.items()})


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingCheckpointError(
            f"no such checkpoint: {path}; train one, or `hexpath-models import FILE.pt`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118
            return dict(file.metadata() or {}), state
    except (SafetensorError, ValueError) as error:
        raise CorruptCheckpointError(
            f"{path} is no readable safetensors file: {error}; write it anew"
        ) from error


def check_metadata(path: Path, metadata: Mapping[str, str], *, required: Iterable[str]) -> None:
    """Raise a CheckpointMetadataError when a required key is missing, or the schema is another one."""
    missing = [key for key in required if key not in metadata]
    if missing:
        raise CheckpointMetadataError(
            f"{path} lacks the metadata {', '.join(missing)}; was it written by hexpath?"
        )
    if metadata["hexpath.schema"] != SCHEMA:
        found = metadata["hexpath.schema"]
        raise CheckpointMetadataError(
            f"{path} has schema {found}, this version reads {SCHEMA}; update hexpath-models"
        )


def _card(path: Path, metadata: dict[str, str], *, task: str | None) -> CheckpointCard:
    check_metadata(path, metadata, required=_REQUIRED)
    if metadata["task"] not in ((task,) if task else YOLO_TASKS):
        wanted = repr(task) if task else " or ".join(map(repr, YOLO_TASKS))
        raise WrongTaskError(f"{path} is a checkpoint for {metadata['task']!r}, this needs one for {wanted}")
    return _parse(path, metadata)


def _parse(path: Path, metadata: dict[str, str]) -> CheckpointCard:
    try:
        names: dict[str, Any] = json.loads(metadata["names"])
        height, width = json.loads(metadata["imgsz"])
        card = CheckpointCard(
            arch=metadata["arch"],
            task=metadata["task"],
            names={int(key): str(name) for key, name in names.items()},
            image_size=(int(height), int(width)),
            stride=int(metadata["stride"]),
            reg_max=int(metadata["reg_max"]),
            fingerprint=metadata["fingerprint"],
            architecture=checked_architecture(metadata.get("architecture", ""), origin=path),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointMetadataError(f"{path} has unreadable metadata: {error}; write it anew") from error
    if not card.architecture:
        find_model(card.arch)
    return card


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise NonFiniteWeightsError(
                f"{path}: {key!r} holds {bad} NaN or infinite values; the training diverged"
            )
