"""Ultralytics' .pt files, read without running what is pickled in them.

A .pt file is a pickle: loading it the usual way can run any program. Here the restricted unpickler of torch
builds only classes on a list, and the first name that is not on it ends the import.
"""

from __future__ import annotations

import inspect
import pickle
import re
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architecture import describe
from .checkpoint import CheckpointCard, load_checkpoint, load_weights, save_checkpoint
from .dataset import Dataset, check_classes
from .environment import offline
from .errors import (
    CorruptCheckpointError,
    ForeignFileError,
    MissingCheckpointError,
    UnsafeFileError,
    WrongTaskError,
)
from .prepare import Head, prepare
from .registry import MODELS, ModelCard, build

if TYPE_CHECKING:
    from torch import nn

_TASKS = {"DetectionModel": "detect", "SegmentationModel": "segment"}


def import_checkpoint(
    source: Path, *, out: Path, size: tuple[int, int] | None = None, dataset: Dataset | None = None
) -> CheckpointCard:
    """Turn an Ultralytics detection or segmentation checkpoint into model.safetensors and return its card.

    A model.safetensors comes in too: to be deployed at another size, or with another dataset of its classes.
    size: (height, width) to deploy at, by default the size that it was trained at. dataset: checked to have
    the checkpoint's classes; its fingerprint goes into the card.
    Raises MissingCheckpointError, CorruptCheckpointError, UnsafeFileError, WrongTaskError, ForeignFileError,
    ClassMismatchError, NonFiniteWeightsError, and PreparationError for a network that cannot be deployed.
    """
    model, card = open_network(source)
    card = replace(card, image_size=size or card.image_size)
    if dataset is not None:
        check_classes(dataset, card.names, checkpoint=source)
        card = replace(card, fingerprint=dataset.fingerprint)
    prepare(model, head=Head.RAW, image_size=card.image_size)
    save_checkpoint(out, model, card=card)
    return card


def open_network(source: Path) -> tuple[nn.Module, CheckpointCard]:
    """Return the network of a .pt or .safetensors file, and its card."""
    return load_checkpoint(source) if source.suffix == ".safetensors" else open_pt(source)


def open_pt(source: Path) -> tuple[nn.Module, CheckpointCard]:
    """Return the network of a .pt file, built anew by the installed Ultralytics, and its card."""
    model = read_pt(source)
    card = _card_of(model, source)
    own = card.build()
    load_weights(own, model.float().state_dict(), origin=source)
    return own.eval(), card


def read_pt(source: Path) -> Any:
    """Return the model in a .pt file as it was pickled: its EMA weights where there are any."""
    content = read_restricted(source)
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if model is None:
        raise ForeignFileError(f"{source} holds no Ultralytics model; give a .pt file that Ultralytics wrote")
    if type(model).__name__ not in _TASKS:
        known = " or a ".join(_TASKS)
        raise WrongTaskError(f"{source} holds a {type(model).__name__}, this needs a {known}")
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
    """Work out which model this is, from the architecture that it carries."""
    yaml: dict[str, Any] = dict(getattr(model, "yaml", None) or {})
    if "backbone" not in yaml or "head" not in yaml:
        raise ForeignFileError(
            f"{source} does not say of which architecture it is; give a .pt file that Ultralytics wrote"
        )
    if (channels := int(yaml.get("channels", yaml.get("ch", 3)))) != 3:
        raise ForeignFileError(f"{source} takes images of {channels} channels, this needs a network for RGB")
    names = model.names if isinstance(model.names, dict) else dict(enumerate(model.names))
    detect, task = model.model[-1], _TASKS[type(model).__name__]
    name = _name(yaml)
    known = name in MODELS and MODELS[name].task == task and _same_shapes(model, MODELS[name])
    return CheckpointCard(
        arch=name if known or name not in MODELS else f"{name}-changed",
        task=task,
        names={int(key): str(value) for key, value in names.items()},
        image_size=_trained_size(model),
        stride=int(model.stride.max()),
        reg_max=int(detect.reg_max),
        fingerprint="",
        architecture="" if known else describe(yaml, origin=source),
    )


def _name(yaml: dict[str, Any]) -> str:
    """Return the name of the YAML file that the network was built from, with its scale: yolov8n, my-net."""
    stem = re.sub(r"[^\w.-]+", "-", Path(str(yaml.get("yaml_file") or "yolo")).stem)
    scale = str(yaml.get("scale") or "")
    whole = re.fullmatch(r"(yolov?\d+)(-.+)?", stem)
    return f"{whole[1]}{scale}{whole[2] or ''}" if whole and scale else stem


def _same_shapes(model: Any, card: ModelCard) -> bool:
    names = {index: str(index) for index in range(int(model.model[-1].nc))}
    built = {key: tuple(tensor.shape) for key, tensor in build(card, names=names).state_dict().items()}
    return built == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _trained_size(model: Any) -> tuple[int, int]:
    """Return (height, width), rounded up to the stride as Ultralytics does."""
    args = getattr(model, "args", None) or {}
    size = (args if isinstance(args, dict) else vars(args)).get("imgsz", 640)
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    stride = int(model.stride.max())
    height, width = (-(-int(side) // stride) * stride for side in (sides[0], sides[-1]))
    return height, width
