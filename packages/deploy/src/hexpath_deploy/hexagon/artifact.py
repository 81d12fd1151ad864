"""A compiled model on disk, proven to belong to the model that it is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from hexpath_deploy.errors import StaleArtifactError
from hexpath_deploy.files import read_json, sha256_file
from hexpath_deploy.hexagon.local import CARD
from hexpath_deploy.io import Boundary, Encoding, quantize_io, read_boundary
from hexpath_deploy.model import Model, load_onnx


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder that `compile` wrote: `context` wraps the binary,
    `boundary` says which tensors are quantized.
    """

    folder: Path
    context: Path
    boundary: Boundary
    soc_model: int
    card: dict[str, Any]

    @property
    def key(self) -> str:
        """A text that changes whenever the compiled bits or the model do."""
        return json.dumps([self.card["model_sha256"], self.card["binary_sha256"], self.soc_model])


def open_artifact(folder: Path, *, model: Model) -> Artifact:
    """Open a compiled model and check that it was made of `model` and not touched since.

    Raises:
        RecordError: there is no compile.json.
        StaleArtifactError: it was compiled from another model, or its binary was changed.
    """
    card = read_json(folder / CARD)
    if card["model_sha256"] != model.sha256:
        raise StaleArtifactError(
            f"{folder} was compiled from {card['model']} (sha256 {card['model_sha256'][:12]}), but "
            f"{model.path} is "
            f"{model.sha256[:12]}: compile it again"
        )
    context, binary = folder / card["context"], folder / card["binary"]
    for path in (context, binary):
        if not path.is_file():
            raise StaleArtifactError(f"{path} is missing: compile {model.path} again")
    if sha256_file(binary) != card["binary_sha256"]:
        raise StaleArtifactError(
            f"{binary} is not the file that compile.json describes: compile {model.path} again"
        )
    wrapper = onnx.load(context, load_external_data=False)
    metadata = {entry.key: entry.value for entry in wrapper.metadata_props}
    if metadata.get("hexpath.source_sha256") != model.sha256:
        raise StaleArtifactError(f"{context} wraps another model than {model.path}: compile it again")
    check_boundary(read_boundary(metadata), model=model, context=context)
    return Artifact(
        folder=folder,
        context=context,
        boundary=read_boundary(metadata),
        soc_model=int(card["soc_model"]),
        card=card,
    )


def check_boundary(found: Boundary, *, model: Model, context: Path) -> None:
    """Hold the scales at the artifact's border against the model's: a wrong one scales an output silently.

    Raises:
        StaleArtifactError: names the tensor.
    """
    if not found:
        return
    wanted = quantize_io(load_onnx(model.path))
    for side in ("inputs", "outputs"):
        ours, theirs = getattr(wanted, side), getattr(found, side)
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                raise StaleArtifactError(
                    f"{context}: the encoding of '{name}' in hexpath.boundary is {told(theirs.get(name))}, "
                    "the model "
                    f"says {told(ours.get(name))}: a wrong scale or zero point, compile it again"
                )


def told(encoding: Encoding | None) -> str:
    """Return an encoding as text."""
    if encoding is None:
        return "float"
    return f"{encoding.dtype} with scale {encoding.scale:.6g} and zero point {encoding.zero_point}"
