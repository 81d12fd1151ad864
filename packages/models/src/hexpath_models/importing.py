"""Ultralytics' .pt files, read without running what is pickled in them.

A .pt file is a pickle: loading it the usual way can run any program. Here the restricted unpickler of torch
builds only classes on a list, and the first name that is not on it ends the import.
"""

from __future__ import annotations

import inspect
import pickle
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointCard, load_weights, save_checkpoint
from .environment import offline
from .errors import (
    CorruptCheckpointError,
    ForeignFileError,
    MissingCheckpointError,
    UnsafeFileError,
    WrongTaskError,
)
from .registry import MODELS, build


def import_checkpoint(source: Path, *, out: Path) -> CheckpointCard:
    """Turn an Ultralytics detection checkpoint into model.safetensors and return its card.

    Raises MissingCheckpointError, CorruptCheckpointError, UnsafeFileError, WrongTaskError, ForeignFileError,
    NonFiniteWeightsError.
    """
    model = read_pt(source)
    card = _card_of(model, source)
    own = build(card.model, names=card.names)
    load_weights(own, model.float().state_dict(), origin=source)
    save_checkpoint(out, own, card=card)
    return card


def read_pt(source: Path) -> Any:
    """Return the detection model in a .pt file: its EMA weights where there are any."""
    content = read_restricted(source)
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if model is None:
        raise ForeignFileError(f"{source} holds no Ultralytics model; give a .pt file that Ultralytics wrote")
    if type(model).__name__ != "DetectionModel":
        raise WrongTaskError(f"{source} holds a {type(model).__name__}, this needs a DetectionModel")
    return model


def read_restricted(source: Path) -> Any:
    """torch.load that builds nothing but tensors, plain containers and the classes of allowed_classes()."""
    import torch

    if not source.is_file():
        raise MissingCheckpointError(f"no such file: {source}; give the path of an Ultralytics .pt file")
    if not zipfile.is_zipfile(source):
        raise CorruptCheckpointError(
            f"{source} is damaged or no .pt file: not an archive of torch; fetch it anew"
        )
    try:
        with torch.serialization.safe_globals(allowed_classes()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _explain(error, source) from error
    except (RuntimeError, EOFError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise CorruptCheckpointError(
            f"{source} is damaged or no .pt file: {_one_line(error)}; fetch it anew"
        ) from error


def _explain(error: pickle.UnpicklingError, source: Path) -> Exception:
    found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"[Uu]nsupported class (\S+)", str(error))
    if found is None:
        return CorruptCheckpointError(
            f"{source} is damaged or no .pt file: {_one_line(error)}; fetch it anew"
        )
    return UnsafeFileError(
        f"{source} asks for {found[1]}, which is not on the list of allowed classes; nothing of it was run, "
        "do not load this file unless you trust who made it"
    )


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


@cache
def allowed_classes() -> list[Any]:
    """Return what a detection checkpoint may name: modules of torch.nn and Ultralytics, few plain classes."""
    offline()
    import pathlib

    import numpy as np
    import torch
    from torch import nn
    from ultralytics.nn import tasks
    from ultralytics.nn.modules import block, conv, head
    from ultralytics.utils import IterableSimpleNamespace, loss, tal

    allowed: list[Any] = [
        np.dtype,
        type(np.dtype("float64")),
        torch.Size,
        pathlib.PosixPath,
        IterableSimpleNamespace,
    ]
    for library in (nn.modules, block, conv, head, tasks, loss, tal):
        allowed += [
            item for _, item in inspect.getmembers(library, inspect.isclass) if issubclass(item, nn.Module)
        ]
    allowed += [
        loss.v8DetectionLoss,
        (np.float64, "numpy.float64"),
        (_scalar(), "numpy.core.multiarray.scalar"),
    ]
    allowed += [(_scalar(), "numpy._core.multiarray.scalar")]
    return list(dict.fromkeys(allowed))


def _scalar() -> Any:
    """Return numpy's constructor of scalars: best_fitness is one."""
    import numpy as np

    core: Any = np
    return core._core.multiarray.scalar


def _card_of(model: Any, source: Path) -> CheckpointCard:
    """Work out which model of the registry this is, from the architecture that it carries."""
    names = model.names if isinstance(model.names, dict) else dict(enumerate(model.names))
    arch = _architecture(model)
    if arch is None:
        raise ForeignFileError(f"{source} is none of {', '.join(MODELS)}; import a file of one of these")
    return CheckpointCard(
        arch=arch,
        task="detect",
        names={int(key): str(name) for key, name in names.items()},
        image_size=_trained_size(model),
        stride=int(model.stride.max()),
        reg_max=int(model.model[-1].reg_max),
        fingerprint="",
    )


def _architecture(model: Any) -> str | None:
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    names = {index: str(index) for index in range(int(model.model[-1].nc))}
    hint = f"yolo11{(model.yaml or {}).get('scale', '')}"
    for card in [MODELS[hint]] if hint in MODELS else list(MODELS.values()):
        if {key: tuple(t.shape) for key, t in build(card, names=names).state_dict().items()} == own:
            return card.name
    return None


def _trained_size(model: Any) -> tuple[int, int]:
    args = getattr(model, "args", None) or {}
    size = (args if isinstance(args, dict) else vars(args)).get("imgsz", 640)
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    return int(sides[0]), int(sides[-1])
