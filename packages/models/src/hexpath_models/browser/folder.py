"""Write the folder: both ONNX files, what Transformers.js reads beside them, the page, and how well they do.

    OUT/index.html, package.json          the page; `npm install` there brings Transformers.js
    OUT/models/MODEL/config.json, preprocessor_config.json, onnx/model.onnx, onnx/model_quantized.onnx
    OUT/sample.png                        an image of the validation split, at the model's size
    OUT/browser.json                      bytes, milliseconds on this CPU, equal pixels

The graphs stay as they were exported, but for the names of input and output and a limit behind each 8-bit
softmax (`saturate`): they take RGB in [0, 1], and their own first layer normalizes, so the preprocessor
rescales and does not normalize.
"""

from __future__ import annotations

import ast
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClassMismatchError, CorruptCheckpointError, MissingCheckpointError, WrongTaskError
from ..files import atomic_folder
from .compare import compare
from .saturate import saturate_softmax

INPUT, OUTPUT = "pixel_values", "logits"
MODEL_TYPES = {"segformer_b0": ("segformer", "SegformerForSemanticSegmentation", "SegformerImageProcessor")}
PAGE = ("index.html", "package.json")
SAMPLES = 8


def write_browser(
    *, float_file: Path, quantized_file: Path, data: Path, out: Path, images: int = SAMPLES
) -> dict[str, Any]:
    """Write the folder `out` and return the content of browser.json.

    images: how many of the validation split both files are compared on, in ONNX Runtime.
    Raises MissingCheckpointError, CorruptCheckpointError (no such file, or none that this project exported),
    WrongTaskError (Transformers.js does not know the network), ClassMismatchError (two unlike files),
    DataFileError.
    """
    models = {"model.onnx": _load(float_file), "model_quantized.onnx": _load(quantized_file)}
    facts = {
        name: _facts(model, file)
        for (name, model), file in zip(models.items(), (float_file, quantized_file), strict=True)
    }
    first, second = facts.values()
    if first != second:
        key = next(key for key in first if first[key] != second[key])
        raise ClassMismatchError(
            f"{float_file} and {quantized_file} are not the same network: {key} {first[key]!r} and "
            f"{second[key]!r}"
        )
    samples = _samples(data, first, images=images)
    with atomic_folder(out) as folder:
        onnx_folder = folder / "models" / first["arch"] / "onnx"
        onnx_folder.mkdir(parents=True)
        for name, model in models.items():
            _save(model, onnx_folder / name)
        for name, content in _settings(first).items():
            (onnx_folder.parent / name).write_text(json.dumps(content, indent=1) + "\n")
        for name in PAGE:
            shutil.copyfile(str(files(__package__) / name), folder / name)
        _write_image(folder / "sample.png", samples[0])
        told = compare({name: onnx_folder / name for name in models}, images=samples, input_name=INPUT)
        told = {"schema": 1, "model": first["arch"], "size": first["size"], "names": first["names"], **told}
        (folder / "browser.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


def _load(file: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not file.is_file():
        raise MissingCheckpointError(f"no such file: {file}; give an exported model.onnx")
    try:
        return onnx.load(file)
    except DecodeError as error:
        raise CorruptCheckpointError(f"{file} is no ONNX file ({error}); export it anew") from error


def _facts(model: Any, file: Path) -> dict[str, Any]:
    """Return architecture, class names and size from the file's metadata."""
    meta = {entry.key: entry.value for entry in model.metadata_props}
    try:
        arch, names, size = meta["hexpath.model"], ast.literal_eval(meta["names"]), json.loads(meta["imgsz"])
    except (KeyError, ValueError, SyntaxError) as error:
        raise CorruptCheckpointError(
            f"{file} lacks the metadata of an export ({error}); write it by hexpath-models export or "
            "hexpath-quant"
        ) from error
    if arch not in MODEL_TYPES:
        raise WrongTaskError(
            f"{file} is a {arch}, which Transformers.js does not know; it runs {', '.join(MODEL_TYPES)}"
        )
    return {"arch": arch, "names": {int(key): str(name) for key, name in names.items()}, "size": list(size)}


def _samples(data: Path, facts: dict[str, Any], *, images: int) -> Any:
    """Return uint8 (N, 3, H, W) of the validation split, stretched to the model's size."""
    import torch

    from ..loading import spread
    from ..semantic.augment import stretch
    from ..semantic.dataset import check_names, read_semantic

    dataset = read_semantic(data)
    check_names(dataset, facts["names"], checkpoint=Path("the model"))
    chosen = [dataset.val[index] for index in spread(min(images, len(dataset.val)), len(dataset.val))]
    size = (int(facts["size"][0]), int(facts["size"][1]))
    return torch.stack([stretch(dataset.read(item)[0], size=size) for item in chosen]).numpy()


def _save(model: Any, file: Path) -> None:
    """Write the model with the names that Transformers.js expects."""
    import onnx

    graph = model.graph
    for value, name in ((graph.input[0], INPUT), (graph.output[0], OUTPUT)):
        old, value.name = value.name, name
        for node in graph.node:
            for names in (node.input, node.output):
                for index, used in enumerate(names):
                    if used == old:
                        names[index] = name
    saturate_softmax(model)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _settings(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return config.json and preprocessor_config.json, which transformers in Python reads too."""
    model_type, architecture, processor = MODEL_TYPES[facts["arch"]]
    height, width = facts["size"]
    names = facts["names"]
    config = {
        "model_type": model_type,
        "architectures": [architecture],
        "id2label": {str(key): name for key, name in names.items()},
        "label2id": {name: key for key, name in names.items()},
        "num_labels": len(names),
    }
    preprocessor = {
        "image_processor_type": processor,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }
    return {"config.json": config, "preprocessor_config.json": preprocessor}


def _write_image(file: Path, pixels: Any) -> None:
    """Write uint8 (3, H, W) RGB as PNG."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file)
