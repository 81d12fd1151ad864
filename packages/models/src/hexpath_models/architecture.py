"""Architectures that are not in the registry: what a checkpoint says about them, checked before it is built.

Ultralytics builds a network from a mapping of layer names and arguments. In a stranger's file that mapping is
input like any other: it may name layers of torch.nn and of Ultralytics, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .environment import offline
from .errors import UnsafeFileError

_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Za-z0-9]+\([\w\s=.,-]*\)")
_KEPT = (
    "nc",
    "scale",
    "scales",
    "depth_multiple",
    "width_multiple",
    "max_channels",
    "activation",
    "reg_max",
    "end2end",
    "backbone",
    "head",
)


def describe(yaml: Mapping[str, Any], *, origin: Path) -> str:
    """Return the part of Ultralytics' model YAML that decides the architecture, checked, as JSON."""
    return checked_architecture(
        json.dumps({key: yaml[key] for key in _KEPT if yaml.get(key) is not None}), origin=origin
    )


def checked_architecture(text: str, *, origin: Path) -> str:
    """Return the JSON text as it is when every layer in it is a known one; "" stays "".

    Raises:
        UnsafeFileError: it names a layer or an activation that is no module of torch.nn or Ultralytics.
        ValueError, KeyError, TypeError: it is no description of an architecture.
    """
    if not text:
        return ""
    content = json.loads(text)
    known = _layers()
    for _, _, name, arguments in [*content["backbone"], *content["head"]]:
        if str(name).removeprefix("nn.") not in known:
            raise UnsafeFileError(
                f"{origin} asks for the layer {name!r}, which is no layer of a YOLO network"
            )
        for argument in arguments:
            if isinstance(argument, str) and not re.fullmatch(r"[\w.-]*", argument):
                raise UnsafeFileError(f"{origin}: layer {name!r} has the argument {argument!r}; not built")
    activation = content.get("activation")
    if activation and not _ACTIVATION.fullmatch(str(activation)):
        raise UnsafeFileError(f"{origin} asks for the activation {activation!r}; not built")
    return text


def has_two_branches(config: str | Mapping[str, Any]) -> bool:
    """Return whether the network of a YAML file, or of its content, has a one-to-one branch as well."""
    offline()
    from ultralytics.nn.tasks import yaml_model_load

    content = yaml_model_load(config) if isinstance(config, str) else config
    return bool(content.get("end2end")) or content["head"][-1][2] == "v10Detect"


def _layers() -> set[str]:
    offline()
    import inspect

    from torch import nn
    from ultralytics.nn.modules import block, conv, head

    names: set[str] = set()
    for library in (nn, block, conv, head):
        names |= {
            name for name, item in inspect.getmembers(library, inspect.isclass) if issubclass(item, nn.Module)
        }
    return names
