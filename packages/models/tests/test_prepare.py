"""The prepared network equals the original on every scale, and is what a quantizer needs."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from conftest import NAMES, randomize_statistics

from hexpath_models.errors import OptionError, PreparationError
from hexpath_models.prepare import Head, parse_head, prepare
from hexpath_models.registry import MODELS, build, find_model

SIZE = (64, 96)


@pytest.fixture(scope="module")
def nano() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build(find_model("yolo11n"), names=NAMES)
    randomize_statistics(model)
    return model.eval()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", list(MODELS))
@torch.inference_mode()
def test_every_head_of_every_scale_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model = build(find_model(name), names=NAMES)
    randomize_statistics(model)
    images = torch.rand(2, 3, *SIZE)
    plain, raw = model.eval()(images)
    boxes_scores = prepare(model, head=Head.RAW, image_size=SIZE)(images)
    assert relative(torch.cat([t.flatten(2) for t in boxes_scores[0::2]], 2), raw["boxes"]) < 1e-5
    assert relative(torch.cat([t.flatten(2) for t in boxes_scores[1::2]], 2), raw["scores"]) < 1e-5
    assert relative(torch.cat(prepare(model, head=Head.DECODED, image_size=SIZE)(images), 1), plain) < 1e-5
    assert relative(prepare(model, head=Head.PLAIN, image_size=SIZE)(images)[0], plain) < 1e-5


@pytest.mark.parametrize("head", list(Head))
def test_fx_traces_it_without_reading_shapes(nano: torch.nn.Module, head: Head) -> None:
    prepared = prepare(nano, head=head, image_size=SIZE)
    graph = torch.fx.symbolic_trace(prepared)
    images = torch.rand(1, 3, *SIZE)
    for found, expected in zip(graph(images), prepared(images), strict=True):
        assert torch.equal(found, expected)
    calls = {str(node.target) for node in graph.graph.nodes if node.op == "call_method"}
    assert calls <= {"reshape", "transpose"}
    assert "getattr" not in " ".join(str(node.target) for node in graph.graph.nodes)


def test_no_module_is_called_twice(nano: torch.nn.Module) -> None:
    prepared = prepare(nano, head=Head.DECODED, image_size=SIZE)
    nodes = torch.fx.symbolic_trace(prepared).graph.nodes
    modules = Counter(id(prepared.get_submodule(str(n.target))) for n in nodes if n.op == "call_module")
    assert max(modules.values()) == 1


def test_names_and_weights_are_ultralytics_own(nano: torch.nn.Module) -> None:
    state = nano.state_dict()
    prepared = prepare(nano, head=Head.RAW, image_size=SIZE).state_dict()
    assert set(state) - set(prepared) == {"model.23.dfl.conv.weight"}
    assert not set(prepared) - set(state)
    assert all(torch.equal(prepared[key], state[key]) for key in prepared)
    assert {"model.0.conv.weight", "model.10.m.0.attn.qkv.bn.running_mean", "model.23.cv2.0.2.bias"} <= set(
        prepared
    )


def test_parameters_train_and_the_source_stays(nano: torch.nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in nano.state_dict().items()}
    prepared = prepare(nano, head=Head.RAW, image_size=SIZE)
    sum(output.square().mean() for output in prepared.train()(torch.rand(2, 3, *SIZE))).backward()
    assert all(parameter.grad is not None for parameter in prepared.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in nano.state_dict().items())


def test_output_names(nano: torch.nn.Module) -> None:
    names = {head: prepare(nano, head=head, image_size=SIZE).output_names for head in Head}
    raw = ("boxes_8", "scores_8", "boxes_16", "scores_16", "boxes_32", "scores_32")
    assert names == {Head.RAW: raw, Head.DECODED: ("boxes", "scores"), Head.PLAIN: ("output0",)}


def test_unknown_head_offers_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"unknown head 'rwa'; did you mean 'raw'\?"):
        parse_head("rwa")


def test_image_size_must_fit_the_stride(nano: torch.nn.Module) -> None:
    with pytest.raises(PreparationError, match="image size 60x64 is no multiple of 32"):
        prepare(nano, head=Head.RAW, image_size=(60, 64))


def test_fused_model_is_refused() -> None:
    model = build(find_model("yolo11n"), names=NAMES).eval().fuse(verbose=False)
    with pytest.raises(PreparationError, match="BatchNorm is folded already"):
        prepare(model, head=Head.RAW, image_size=SIZE)


def test_heads_that_wait_for_their_turn_are_refused() -> None:
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    with pytest.raises(PreparationError, match="end-to-end heads are not prepared yet"):
        prepare(DetectionModel("yolo26n.yaml", nc=2, verbose=False), head=Head.RAW, image_size=SIZE)
    with pytest.raises(PreparationError, match="cannot prepare a Segment head; known: Detect"):
        prepare(SegmentationModel("yolo11n-seg.yaml", nc=2, verbose=False), head=Head.RAW, image_size=SIZE)
