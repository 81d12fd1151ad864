"""Reading an ONNX model: what goes in, what comes out, and what it claims to be."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model

from hexpath_deploy.errors import DynamicShapeError, MetadataError, UnreadableModelError, nearest
from hexpath_deploy.files import sha256_file
from hexpath_deploy.heads import Head, PlainHead, check_head, check_task, parse_head
from hexpath_deploy.sanity import check_sanity

TASKS = ("detect", "segment", "semantic")
RESIZES = ("letterbox", "stretch")
INPUT = {"layout": "NCHW", "color": "RGB", "range": [0, 1], "resize": "letterbox", "pad_value": 114}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What the graph takes under one name: `dtype` is numpy's name of it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """Any network as ONNX, with static shapes; `inputs` and `shapes` (of the outputs) in the graph's order.

    `quantized` says that the graph holds QuantizeLinear nodes.
    """

    path: Path
    sha256: str
    inputs: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    quantized: bool
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """The architecture that the model says it is, else its file's stem."""
        return self.metadata.get("hexpath.model", self.path.stem)

    @property
    def has_float_regions(self) -> bool:
        """Whether the model's mixed plan leaves regions in float, to run in half precision."""
        return '"fp16"' in self.metadata.get("hexpath.plan_regions", "")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs, in its order."""
        return tuple(self.shapes)


@dataclass(frozen=True, kw_only=True)
class TaskModel(Model):
    """A network for images that says how to feed and decode it.

    `imgsz` is (height, width). The graph takes `input`, float32 (1, 3, height, width), RGB in [0, 1], of an
    image that was resized by `resize`: `letterbox` or `stretch`.
    """

    task: str
    names: tuple[str, ...]
    imgsz: tuple[int, int]
    input: str
    pad_value: int
    resize: str
    head: Head


def read_model(path: Path) -> Model:
    """Read and check any model; one that says what it is for comes as a `TaskModel`, held against its graph.

    Raises:
        UnreadableModelError: no such file, empty, or no ONNX.
        DynamicShapeError: a dimension of an input or output is not fixed.
        MetadataError: what the metadata claims is unreadable, or contradicts the graph.
        EncodingError: a quantization encoding contradicts the graph.
    """
    proto = load_onnx(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    check_static(proto, path)
    model = Model(
        path=path,
        sha256=sha256_file(path),
        inputs={value.name: tensor_of(value) for value in inputs_of(proto)},
        shapes={value.name: shape_of(value) for value in proto.graph.output},
        quantized=any(node.op_type == "QuantizeLinear" for node in proto.graph.node),
        metadata=metadata,
    )
    head = read_head(metadata, model.shapes)
    found = model if head is None else task_model(model, head=head, proto=proto)
    check_sanity(proto, metadata)
    return found


def read_task_model(path: Path) -> TaskModel:
    """Read a model that must say how to feed and decode it.

    Raises:
        MetadataError: it does not; else as `read_model`.
    """
    model = read_model(path)
    if isinstance(model, TaskModel):
        return model
    check_metadata(model.metadata, path)
    raise MetadataError(
        f"no metadata 'hexpath.outputs', and the outputs ({', '.join(model.shapes)}) are not Ultralytics' "
        "detection output: export with hexpath-models (--head raw), or with Ultralytics and nms=False; "
        "compile, profile and agree work without"
    )


def task_model(model: Model, *, head: Head, proto: onnx.ModelProto) -> TaskModel:
    """Read how the model is fed and decoded, and hold all of it against the graph."""
    metadata, shapes = model.metadata, model.shapes
    check_metadata(metadata, model.path)
    names, imgsz = read_names(metadata), read_imgsz(metadata)
    entry = read_input(metadata, proto, imgsz)
    check_task(head, metadata["task"])
    check_head(head, shapes=shapes, classes=len(names), imgsz=imgsz)
    return TaskModel(
        **vars(model),
        task=metadata["task"],
        names=names,
        imgsz=imgsz,
        input=str(entry["name"]),
        pad_value=int(entry["pad_value"]),
        resize=str(entry["resize"]),
        head=head,
    )


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read the file, weights beside it included, which must lie in the model's own folder.

    Raises:
        UnreadableModelError: no such file, empty, no ONNX, or its weights are missing or outside its folder.
    """
    if not path.is_file():
        raise UnreadableModelError(f"no such model {path}: give the path of an ONNX file")
    if path.stat().st_size == 0:
        raise UnreadableModelError(f"{path} is empty (0 bytes): export it again")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UnreadableModelError(
            f"{path} is no ONNX model, or is cut off ({error}): export it again"
        ) from error
    if not proto.graph.node:
        raise UnreadableModelError(f"{path} is no ONNX model, or holds an empty graph: export it again")
    check_external(proto, path)
    try:
        load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise UnreadableModelError(
            f"weights of {path} cannot be read ({error}): copy them beside it"
        ) from error
    return proto


def check_external(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse weights that lie outside the model's folder: a model must not read other files."""
    folder = path.parent.resolve()
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not (folder / entry.value).resolve().is_relative_to(folder):
                raise UnreadableModelError(
                    f"{path}: tensor '{tensor.name}' takes its data from '{entry.value}', outside the "
                    "model's "
                    "folder: a model may only read files beside it"
                )


def inputs_of(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return what must be fed: older exporters list the weights among the inputs too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def tensor_of(value: onnx.ValueInfoProto) -> Tensor:
    """Return shape and type of an input."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return Tensor(shape=shape_of(value), dtype=str(dtype))


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the static shape of an input or output."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def check_static(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse dimensions that are no fixed number: the compiler needs every one."""
    for value in (*inputs_of(proto), *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        loose = [dim.dim_param or f"dimension {i}" for i, dim in enumerate(dims) if dim.dim_value <= 0]
        if loose or not value.type.tensor_type.HasField("shape"):
            raise DynamicShapeError(
                f"{path}: '{value.name}' has dynamic dimensions ({', '.join(loose) or 'unknown rank'}): "
                "export with fixed sizes (torch: no dynamic_axes; Ultralytics: "
                "dynamic=False, imgsz=[H, W], batch=1)"
            )


def check_metadata(metadata: Mapping[str, str], path: Path) -> None:
    """Refuse a model that does not say what it is."""
    missing = [key for key in ("task", "names", "imgsz") if key not in metadata]
    if missing:
        raise MetadataError(
            f"{path} has no metadata {', '.join(missing)}: export it with hexpath-models, or with "
            "Ultralytics, "
            "which write task, names and imgsz into metadata_props"
        )
    if metadata["task"] not in TASKS:
        raise MetadataError(f"{path} is for task '{metadata['task']}'{nearest(metadata['task'], TASKS)}")


def read_literal(metadata: Mapping[str, str], key: str) -> Any:
    """Read a Python or JSON literal of the metadata."""
    try:
        return ast.literal_eval(metadata[key])
    except (ValueError, SyntaxError) as error:
        raise MetadataError(
            f"metadata '{key}' is unreadable ({metadata[key]!r:.80}): export again"
        ) from error


def read_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Read the class names; ids must run from 0 without a gap."""
    names = read_literal(metadata, "names")
    if isinstance(names, dict) and {int(key) for key in names} == set(range(len(names))) and names:
        return tuple(str(name) for _, name in sorted((int(key), name) for key, name in names.items()))
    raise MetadataError(f"metadata 'names' must map 0..N-1 to names, found {metadata['names']!r:.80}")


def read_imgsz(metadata: Mapping[str, str]) -> tuple[int, int]:
    """Read the image size (height, width)."""
    size = read_literal(metadata, "imgsz")
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    raise MetadataError(f"metadata 'imgsz' must be [height, width], found {metadata['imgsz']!r:.80}")


def read_input(metadata: Mapping[str, str], proto: onnx.ModelProto, imgsz: tuple[int, int]) -> dict[str, Any]:
    """Read `hexpath.input`, or infer it, and hold it against the graph."""
    inputs = {value.name: value for value in inputs_of(proto)}
    if len(inputs) != 1:
        raise MetadataError(f"the graph has inputs {', '.join(inputs)}; a network for images has one")
    given = {"name": next(iter(inputs)), **INPUT}
    if "hexpath.input" in metadata:
        given |= json_object(metadata["hexpath.input"], "hexpath.input")
    for key in ("layout", "color", "range"):
        if given[key] != INPUT[key]:
            raise MetadataError(
                f"hexpath.input: {key} {given[key]!r} is not supported, expected {INPUT[key]!r}"
            )
    if given["resize"] not in RESIZES:
        raise MetadataError(
            f"hexpath.input: unknown resize '{given['resize']}'{nearest(str(given['resize']), RESIZES)}"
        )
    if given["name"] not in inputs:
        raise MetadataError(f"hexpath.input names '{given['name']}', the graph takes {', '.join(inputs)}")
    check_input(inputs[given["name"]], imgsz)
    return given


def check_input(value: onnx.ValueInfoProto, imgsz: tuple[int, int]) -> None:
    """Hold the graph's input against the claimed image size."""
    shape = shape_of(value)
    if shape != (1, 3, *imgsz):
        raise MetadataError(
            f"input '{value.name}' has shape {list(shape)}, but the metadata's imgsz demands "
            f"{[1, 3, *imgsz]}: "
            "the metadata is another model's, or the batch is not 1"
        )
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        raise MetadataError(
            f"input '{value.name}' is {kind}, expected FLOAT; hexpath-deploy quantizes it itself"
        )


def read_head(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Head | None:
    """Read `hexpath.outputs`, or infer Ultralytics' single output, with masks its two; None: not told."""
    if "hexpath.outputs" in metadata:
        return parse_head(metadata["hexpath.outputs"])
    names, task = tuple(shapes), metadata.get("task")
    if metadata.get("end2end", "False") == "True":
        return None
    if len(names) == 1 and task == "detect":
        return PlainHead(output=names[0])
    if len(names) == 2 and task == "segment":
        return PlainHead(output=names[0], prototypes=names[1])
    return None


def json_object(text: str, key: str) -> dict[str, Any]:
    """Read a JSON object of the metadata."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MetadataError(f"metadata '{key}' is no JSON ({error}): export again") from error
    if not isinstance(value, dict):
        raise MetadataError(f"metadata '{key}' holds a {type(value).__name__}, expected a JSON object")
    return value
