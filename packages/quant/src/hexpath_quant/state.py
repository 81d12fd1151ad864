"""The state of a training, saved whole after every epoch, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from hexpath_quant.errors import StateError
from hexpath_quant.files import write_atomic

NAME = "state.pt"


def save_state(work: Path, *, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, texts in dicts and lists) to ``work``, whole or not at all."""
    stream = io.BytesIO()
    torch.save(state, stream)
    write_atomic(work / NAME, stream.getvalue())


def load_state(work: Path) -> dict[str, Any] | None:
    """Return the saved state, None if there is none.

    Raises:
        StateError: it cannot be read.
    """
    path = work / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, IndexError) as error:
        raise StateError(
            f"{path} cannot be read ({type(error).__name__}); delete it to train from the start"
        ) from error
    return state


def fingerprint(arguments: dict[str, Any]) -> str:
    """Return a digest of everything that decides the course of a training."""
    return hashlib.sha256(json.dumps(arguments, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """Return a digest of tensors' names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
