"""model.safetensors: what goes in comes out, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import NAMES, make_card, randomize_statistics
from safetensors import safe_open
from safetensors.torch import save_file

from hexpath_models import errors
from hexpath_models.checkpoint import load_checkpoint, read_card, save_checkpoint
from hexpath_models.registry import build, find_model


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    model = build(find_model("yolo11n"), names=NAMES)
    randomize_statistics(model)
    return model


@pytest.fixture
def path(tmp_path: Path, model: torch.nn.Module) -> Path:
    save_checkpoint(tmp_path / "model.safetensors", model, card=make_card())
    return tmp_path / "model.safetensors"


def rewrite(path: Path, *, metadata: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> None:
    """Change some metadata and tensors; None removes a tensor."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        old = dict(file.metadata())
    state = {key: tensor for key, tensor in {**state, **tensors}.items() if tensor is not None}
    save_file(state, path, metadata={**old, **(metadata or {})})


def test_round_trip(path: Path, model: torch.nn.Module) -> None:
    loaded, card = load_checkpoint(path)
    assert card == make_card()
    assert not loaded.training
    assert loaded.names == NAMES
    own = model.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in loaded.state_dict().items())


def test_metadata_is_the_contract(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {
            "hexpath.schema": "1",
            "arch": "yolo11n",
            "task": "detect",
            "names": json.dumps({"0": "red", "1": "blue"}),
            "imgsz": "[64, 64]",
            "stride": "32",
            "fingerprint": "sha256:test",
            "reg_max": "16",
        }


def test_half_weights_are_stored_as_float32(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", build(find_model("yolo11n"), names=NAMES).half(), card=make_card())
    dtypes = {tensor.dtype for tensor in load_checkpoint(tmp_path / "m")[0].state_dict().values()}
    assert dtypes == {torch.float32, torch.int64}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingCheckpointError, match=r"no such checkpoint: .*nope"):
        read_card(tmp_path / "nope")


def test_corrupt_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(errors.CorruptCheckpointError, match="is no readable safetensors file"):
        load_checkpoint(path)


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m")
    with pytest.raises(errors.CheckpointMetadataError, match=r"lacks the metadata hexpath\.schema, arch"):
        load_checkpoint(tmp_path / "m")


def test_newer_schema(path: Path) -> None:
    rewrite(path, metadata={"hexpath.schema": "2"})
    with pytest.raises(errors.CheckpointMetadataError, match="has schema 2, this version reads 1"):
        read_card(path)


def test_unreadable_metadata(path: Path) -> None:
    rewrite(path, metadata={"imgsz": "big"})
    with pytest.raises(errors.CheckpointMetadataError, match="has unreadable metadata"):
        read_card(path)


def test_other_task(path: Path) -> None:
    rewrite(path, metadata={"task": "segment"})
    with pytest.raises(
        errors.WrongTaskError, match="is a checkpoint for 'segment', this needs one for 'detect'"
    ):
        load_checkpoint(path, task="detect")
    rewrite(path, metadata={"task": "pose"})
    with pytest.raises(errors.WrongTaskError, match="for 'pose', this needs one for 'detect' or 'segment'"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ([-1, 1, "Path", ["x"]], "asks for the layer 'Path', which is no layer of a YOLO network"),
        ([-1, 1, "torchvision.ops.Permute", []], "asks for the layer 'torchvision"),
        ([-1, 1, "Conv", ["__import__('os')"]], r"layer 'Conv' has the argument .*; not built"),
    ],
)
def test_architectures_name_nothing_but_layers(path: Path, layer: list[object], message: str) -> None:
    rewrite(path, metadata={"architecture": json.dumps({"backbone": [layer], "head": []})})
    with pytest.raises(errors.UnsafeFileError, match=message):
        load_checkpoint(path)


def test_architectures_run_no_activation(path: Path) -> None:
    content = {"backbone": [], "head": [], "activation": "__import__('os').system('true')"}
    rewrite(path, metadata={"architecture": json.dumps(content)})
    with pytest.raises(errors.UnsafeFileError, match="asks for the activation"):
        load_checkpoint(path)


def test_unknown_architecture(path: Path) -> None:
    rewrite(path, metadata={"arch": "yolo11q"})
    with pytest.raises(errors.UnknownModelError, match="unknown model 'yolo11q'"):
        read_card(path)


def test_other_class_count(path: Path) -> None:
    rewrite(path, metadata={"names": json.dumps({"0": "red"})})
    with pytest.raises(errors.WeightShapeError, match=r"'model\.23\..*' has shape .* the architecture needs"):
        load_checkpoint(path)


def test_missing_tensor(path: Path) -> None:
    rewrite(path, **{"model.0.conv.weight": None})
    with pytest.raises(errors.WeightShapeError, match=r"lacks 'model\.0\.conv\.weight' \(1 such\)"):
        load_checkpoint(path)


def test_unknown_tensor(path: Path) -> None:
    rewrite(path, extra=torch.zeros(1))
    with pytest.raises(errors.WeightShapeError, match="has the unknown tensor 'extra'"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights(path: Path, value: float) -> None:
    rewrite(path, **{"model.0.bn.bias": torch.full((16,), value)})
    with pytest.raises(errors.NonFiniteWeightsError, match=r"'model\.0\.bn\.bias' holds 16 NaN or infinite"):
        load_checkpoint(path)


def test_non_finite_weights_are_not_written(tmp_path: Path) -> None:
    model = build(find_model("yolo11n"), names=NAMES)
    model.state_dict()["model.0.bn.bias"].fill_(float("nan"))
    with pytest.raises(errors.NonFiniteWeightsError):
        save_checkpoint(tmp_path / "m", model, card=make_card())
    assert not list(tmp_path.iterdir())
