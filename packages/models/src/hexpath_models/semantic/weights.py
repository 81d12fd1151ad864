"""The authors' checkpoints: found where a person put them, read without running them, taken key by key."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    ClassMismatchError,
    CorruptCheckpointError,
    MissingWeightsError,
    NonFiniteWeightsError,
    UnsafeFileError,
    WeightShapeError,
)
from .network import SemanticNetwork
from .registry import SemanticCard

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_TRAINING_ONLY = ("seghead_extra.", "loss.")  # an auxiliary head, a criterion's class weights


def find_published(card: SemanticCard) -> Path:
    """Return where the published weights are: in $HEXPATH_ASSETS, assets/, or the hub that owns them.

    Raises MissingWeightsError with what is missing, where to get it, where to put it and its licence.
    """
    for folder in _folders():
        for name in card.weights_files:
            if (folder / name).is_file() or (card.hub and (folder / name).is_dir()):
                return folder / name
    if card.hub:
        return Path(card.hub)
    raise MissingWeightsError(
        f"{card.weights_files[0]} ({card.name}, {card.trained_on}) is not here; get it from {card.source} "
        f"and put it into assets/ or the folder named by HEXPATH_ASSETS (licence {card.licence}), or train "
        "without --pretrained"
    )


def _folders() -> list[Path]:
    chosen = os.environ.get("HEXPATH_ASSETS")
    return [*([Path(chosen)] if chosen else []), Path("assets")]


def load_published(network: SemanticNetwork, file: Path) -> bool:
    """Copy an author's checkpoint into `network`; return whether its head was left out.

    A head of another class count than the network's stays as it is (random), everything else is taken.
    Raises MissingWeightsError, CorruptCheckpointError, UnsafeFileError, ClassMismatchError, WeightShapeError,
    NonFiniteWeightsError; the network is unchanged then.
    """
    import torch

    net: Any = network.net
    state = net.read_published(file) if hasattr(net, "read_published") else strip(read_state(file), net)
    own = net.state_dict()
    head = tuple(net.head_keys)
    _check_finite(state, file)
    _check_keys(state, own, file)
    replaced = _other_classes(state, own, head, file)
    taken = {key: value for key, value in state.items() if not (replaced and key in head)}
    for key, tensor in taken.items():
        if tensor.shape != own[key].shape:
            found, expected = tuple(tensor.shape), tuple(own[key].shape)
            raise WeightShapeError(f"{file}: {key!r} has shape {found}, the architecture needs {expected}")
    with torch.no_grad():
        net.load_state_dict({key: value.to(own[key].dtype) for key, value in taken.items()}, strict=False)
    return replaced


def read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pt, .pth or .safetensors file, of its `state_dict` where it has one."""
    return _tensors(read_raw(file), file)


def read_raw(file: Path) -> Any:
    """Return what a file holds; torch's restricted unpickler takes tensors and plain containers only."""
    import torch

    if not file.is_file():
        raise MissingWeightsError(f"no such weights: {file}; give the path of the authors' checkpoint")
    try:
        if file.suffix == ".safetensors":
            return _safetensors(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise CorruptCheckpointError(f"{file} is damaged or no checkpoint; fetch it anew") from error
        raise UnsafeFileError(
            f"{file} asks for more than tensors ({' '.join(str(error).split())[:160]}); nothing of it was "
            "run, do not load this file unless you trust who made it"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise CorruptCheckpointError(
            f"{file} is damaged or no checkpoint: {' '.join(str(error).split())[:160]}; fetch it anew"
        ) from error


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    import torch

    for name in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not any(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise CorruptCheckpointError(f"{file} holds no weights by name; give a state dict")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def strip(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers put before the names, and what only training needed."""
    own = set(net.state_dict())
    names = {key: _stripped(key, own) for key in state}
    return {
        name: state[key] for key, name in names.items() if name in own or not name.startswith(_TRAINING_ONLY)
    }


def _stripped(key: str, own: set[str]) -> str:
    name = key
    while name not in own:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)
    return name


def _check_finite(state: dict[str, Tensor], file: Path) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise NonFiniteWeightsError(f"{file}: {key!r} holds {bad} NaN or infinite values; fetch it anew")


def _check_keys(state: dict[str, Tensor], own: dict[str, Tensor], file: Path) -> None:
    lacking = {key for key in own if key not in state and not key.endswith("num_batches_tracked")}
    for kind, keys in (("lacks", lacking), ("has the unknown tensor", state.keys() - own.keys())):
        if keys:
            raise WeightShapeError(
                f"{file} {kind} {min(keys)!r} ({len(keys)} such); is it of this architecture?"
            )


def _other_classes(
    state: dict[str, Tensor], own: dict[str, Tensor], head: tuple[str, ...], file: Path
) -> bool:
    """Return whether the head is to be left out: same inputs, another number of classes."""
    found, wanted = state[head[0]].shape, own[head[0]].shape
    if found == wanted:
        return False
    bias = state[head[-1]].shape
    if found[1:] != wanted[1:] or bias[0] != found[0]:
        raise ClassMismatchError(
            f"{file}: the head {head[0]!r} is {tuple(found)} with a bias {tuple(bias)}, expected (classes, "
            f"{', '.join(map(str, wanted[1:]))}) and (classes,); only the class count may differ"
        )
    return True
