"""Tensors of a compiled graph, and the raw files in which qnn-net-run leaves them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hexpath_deploy.errors import BoardRunError
from hexpath_deploy.files import atomic_path
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.reference.hexpath_reference import Array

Tensor = tuple[tuple[int, ...], np.dtype[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Shape and type, by name, of what a compiled graph takes and returns."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def tensors_of(artifact: Artifact) -> Tensors:
    """Read them off the ONNX that wraps the context."""
    graph = onnx.load(artifact.context, load_external_data=False).graph
    return Tensors(
        inputs={value.name: tensor_of(value) for value in graph.input},
        outputs={value.name: tensor_of(value) for value in graph.output},
    )


def tensor_of(value: onnx.ValueInfoProto) -> Tensor:
    """Return shape and type of one input or output."""
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return tuple(dim.dim_value for dim in kind.shape.dim), dtype


def read_results(folder: Path, *, keys: Sequence[str], tensors: Tensors, out: Path) -> None:
    """Turn `Result_<i>/<name>_native.raw` into `out/<key>.npz`, where i counts the keys.

    Raises:
        BoardRunError: a result or an output of it is missing, or has another size than its tensor.
    """
    for index, key in enumerate(keys):
        found = {
            name: read_raw(find_raw(folder / f"Result_{index}", name), shape=shape, dtype=dtype)
            for name, (shape, dtype) in tensors.outputs.items()
        }
        with atomic_path(out / f"{key}.npz") as partial, partial.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]


def find_raw(folder: Path, name: str) -> Path:
    """Return the file of an output: qnn-net-run writes other characters than letters and digits as `_`."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    for path in (folder / f"{clean}_native.raw", folder / f"{clean}.raw"):
        if path.is_file():
            return path
    there = ", ".join(sorted(path.name for path in folder.glob("*.raw"))) or "nothing"
    raise BoardRunError(f"output '{name}' did not come back: {folder.name} holds {there}")


def read_raw(path: Path, *, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Read a tensor; a float one may come in half precision.

    Raises:
        BoardRunError: the file has not the size of the tensor.
    """
    count, size = int(np.prod(shape)), path.stat().st_size
    if dtype == np.float32 and size == 2 * count:
        return np.fromfile(path, np.float16).astype(np.float32).reshape(shape)
    if size != count * dtype.itemsize:
        raise BoardRunError(
            f"{path.name} has {size} bytes, expected {count * dtype.itemsize} ({dtype} {list(shape)})"
        )
    return np.fromfile(path, dtype).reshape(shape)
