"""The authors' checkpoints: prefixes, other class counts, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hexpath_models import errors
from hexpath_models.semantic.network import SemanticNetwork
from hexpath_models.semantic.registry import build_semantic, find_semantic
from hexpath_models.semantic.weights import find_published, load_published

CARD = find_semantic("ddrnet23_slim")
HEAD = "final_layer.conv2.weight"


def authors_state() -> dict[str, Any]:
    torch.manual_seed(7)
    return dict(build_semantic(CARD, classes=19).net.state_dict())


def fresh(classes: int) -> SemanticNetwork:
    torch.manual_seed(1)
    return build_semantic(CARD, classes=classes)


def save(folder: Path, state: Any, name: str = "file.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
def test_prefixes_and_the_whole_net(tmp_path: Path, prefix: str) -> None:
    state = authors_state()
    wrapped = {prefix + key: tensor for key, tensor in state.items()}
    wrapped["loss.criterion.weight"] = torch.ones(19)
    wrapped[prefix + "seghead_extra.conv1.weight"] = torch.ones(3, 3)
    network = fresh(19)
    file = save(tmp_path, {"state_dict": wrapped} if prefix else wrapped)
    assert load_published(network, file) is False
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.net.state_dict().items())


@pytest.mark.parametrize("classes", [7, 2, 150])
def test_the_head_is_replaced_and_nothing_else(tmp_path: Path, classes: int) -> None:
    state, network = authors_state(), fresh(classes)
    before = network.net.state_dict()[HEAD].clone()
    assert load_published(network, save(tmp_path, {"state_dict": state})) is True
    for key, tensor in network.net.state_dict().items():
        if key.startswith("final_layer.conv2."):
            assert tensor.shape[0] == classes
        else:
            assert torch.equal(tensor, state[key]), key
    assert torch.equal(network.net.state_dict()[HEAD], before)


def test_safetensors_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(authors_state(), tmp_path / "file.safetensors")
    assert load_published(fresh(7), tmp_path / "file.safetensors") is True


def _without(key: str) -> dict[str, Any]:
    state = authors_state()
    del state[key]
    return state


def _changed(key: str, tensor: Any) -> dict[str, Any]:
    return {**authors_state(), key: tensor}


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (lambda: _without("conv1.0.weight"), errors.WeightShapeError, r"lacks 'conv1\.0\.weight' \(1 such\)"),
        (
            lambda: _changed("other.weight", torch.ones(1)),
            errors.WeightShapeError,
            r"has the unknown tensor 'other\.weight'",
        ),
        (
            lambda: _changed("conv1.0.weight", torch.ones(16, 3, 3, 3)),
            errors.WeightShapeError,
            r"'conv1\.0\.weight' has shape \(16, 3, 3, 3\), the architecture needs \(32, 3, 3, 3\)",
        ),
        (
            lambda: _changed("conv1.0.bias", torch.full((32,), torch.nan)),
            errors.NonFiniteWeightsError,
            r"'conv1\.0\.bias' holds 32 NaN or infinite values; fetch it anew",
        ),
        (
            lambda: _changed(HEAD, torch.ones(7, 64, 1, 1)),
            errors.ClassMismatchError,
            r"is \(7, 64, 1, 1\) with a bias \(19,\).*only the class count may differ",
        ),
        (lambda: [1, 2], errors.CorruptCheckpointError, "holds no weights by name; give a state dict"),
    ],
)
def test_wrong_weights(tmp_path: Path, state: Any, kind: type[Exception], message: str) -> None:
    network = fresh(19)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(kind, match=message):
        load_published(network, save(tmp_path, state()))
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_damaged_file(tmp_path: Path) -> None:
    file = save(tmp_path, authors_state())
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(errors.CorruptCheckpointError, match=r"is damaged or no checkpoint.*fetch it anew"):
        load_published(fresh(7), file)
    with pytest.raises(errors.MissingWeightsError, match="no such weights"):
        load_published(fresh(7), tmp_path / "other.pth")


def test_a_file_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    file = save(tmp_path, {"state_dict": authors_state(), "more": Path("x")})
    with pytest.raises(errors.UnsafeFileError, match=r"asks for more than tensors.*nothing of it was run"):
        load_published(fresh(7), file)


def test_where_weights_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEXPATH_ASSETS", raising=False)
    message = (
        r"ddrnet23_slim_cityscapes\.pth \(ddrnet23_slim, Cityscapes\) is not here; get it from "
        r"https://github\.com/ydhongHIT/DDRNet .* into assets/ .*HEXPATH_ASSETS \(licence MIT\)"
    )
    with pytest.raises(errors.MissingWeightsError, match=message):
        find_published(CARD)
    for folder in ("assets", "chosen"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "best_val_smaller.pth").touch()
    assert find_published(CARD) == Path("assets/best_val_smaller.pth")
    monkeypatch.setenv("HEXPATH_ASSETS", str(tmp_path / "chosen"))
    assert find_published(CARD) == tmp_path / "chosen" / "best_val_smaller.pth"


def test_names_and_options() -> None:
    with pytest.raises(
        errors.UnknownModelError, match=r"unknown segmentation network 'ddrnet'; did you mean"
    ):
        find_semantic("ddrnet")
    efficientvit = find_semantic("efficientvit_seg_b1")
    cases = [
        (
            {"atention": "split"},
            r"unknown option 'atention' of efficientvit_seg_b1; did you mean 'attention'\?",
        ),
        ({"attention": "splt"}, r"option attention='splt' of efficientvit_seg_b1; did you mean 'split'\?"),
        ({"floor": "-1"}, r"option floor='-1' is no number of at least 0"),
    ]
    for options, message in cases:
        with pytest.raises(errors.OptionError, match=message):
            build_semantic(efficientvit, classes=7, options=options)
    with pytest.raises(errors.OptionError, match="with 1 classes; a segmentation needs at least 2"):
        build_semantic(CARD, classes=1)


def test_normalization_is_the_first_layer() -> None:
    network = fresh(3).eval()
    image = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor(CARD.mean), torch.tensor(CARD.std)
    expected = (image - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network.normalize(image), expected, atol=1e-5, rtol=1e-5)
        assert network(image)[0].shape == (1, 3, 4, 4)
    assert not any(parameter.requires_grad for parameter in network.normalize.parameters())
