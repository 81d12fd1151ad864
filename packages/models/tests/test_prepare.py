"""The prepared network equals the original on every scale, and is what a quantizer needs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from conftest import NAMES, randomize_statistics

from hexpath_models.errors import OptionError, PreparationError
from hexpath_models.prepare import Branch, Head, parse_branch, parse_head, prepare
from hexpath_models.registry import MODELS, build, build_network, find_model

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


def branches(model: Any) -> list[Branch]:
    return list(Branch) if hasattr(model.model[-1], "one2one_cv2") else [Branch.ONE_TO_MANY]


def is_exact(model: Any, *, size: tuple[int, int] = SIZE, heads: tuple[Head, ...] = tuple(Head)) -> None:
    """Hold every head and branch against what Ultralytics computes, within 1e-5 of the largest value."""
    images = torch.rand(1, 3, *size)
    detect = model.model[-1]
    predictions = model.eval()(images)[1]
    for branch in branches(model):
        key = {Branch.ONE_TO_ONE: "one2one", Branch.ONE_TO_MANY: "one2many"}[branch]
        expected = predictions.get(key, predictions)
        plain = detect._inference(expected)
        masks = [expected["proto"]] if "proto" in expected else []
        for head in heads:
            if head is Head.PLAIN and branch is Branch.ONE_TO_ONE:
                continue
            found = list(prepare(model, head=head, image_size=size, branch=branch)(images))
            if masks:
                assert relative(found.pop(), masks[0]) < 1e-5
            if head is Head.RAW:
                kinds = ["boxes", "scores", "mask_coefficient"][: 3 if masks else 2]
                for index, kind in enumerate(kinds):
                    levels = [tensor.flatten(2) for tensor in found[index :: len(kinds)]]
                    assert relative(torch.cat(levels, 2), expected[kind]) < 1e-5
            else:
                assert relative(torch.cat(found, 1), plain) < 1e-5


@pytest.mark.parametrize("name", list(MODELS))
@torch.inference_mode()
def test_every_head_of_every_scale_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model = build(find_model(name), names=NAMES)
    randomize_statistics(model)
    big = find_model(name).params_m > 15
    is_exact(model, size=(64, 64) if big else SIZE, heads=(Head.DECODED,) if big else tuple(Head))


@pytest.mark.parametrize(
    "name",
    ["yolov3-tiny", "yolov5n", "yolov8n", "yolov8n-seg", "yolov9t", "yolov9c", "yolov10n", "yolo26n-seg"],
)
@torch.inference_mode()
def test_other_families_are_exact_and_traceable(name: str) -> None:
    task = "segment" if name.endswith("-seg") else "detect"
    model = build_network(f"{name}.yaml", task=task, names=NAMES)
    randomize_statistics(model)
    is_exact(model)
    torch.fx.symbolic_trace(prepare(model, head=Head.RAW, image_size=SIZE))


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


def test_output_names_of_masks_and_branches() -> None:
    model = build(find_model("yolo11n-seg"), names=NAMES)
    names = {head: prepare(model, head=head, image_size=SIZE).output_names for head in Head}
    levels = [f"{kind}_{step}" for step in (8, 16, 32) for kind in ("boxes", "scores", "masks")]
    assert names == {
        Head.RAW: (*levels, "prototypes"),
        Head.DECODED: ("boxes", "scores", "masks", "prototypes"),
        Head.PLAIN: ("output0", "output1"),
    }
    free = prepare(build(find_model("yolo26n"), names=NAMES), head=Head.RAW, image_size=SIZE)
    assert free.output_names[:2] == ("boxes_8", "scores_8")
    assert free(torch.rand(1, 3, *SIZE))[0].shape == (1, 4, 8, 12), "one distance a side, no distribution"


def test_the_kept_branch_alone_is_in_the_network() -> None:
    model = build(find_model("yolo26n"), names=NAMES)
    for branch, kept, left in (
        (None, "one2one_cv2", "cv2"),
        (Branch.ONE_TO_ONE, "one2one_cv2", "cv2"),
        (Branch.ONE_TO_MANY, "cv2", "one2one_cv2"),
    ):
        state = prepare(model, head=Head.RAW, image_size=SIZE, branch=branch).state_dict()
        assert any(key.startswith(f"model.23.{kept}.") for key in state)
        assert not any(key.startswith(f"model.23.{left}.") for key in state)


def test_branches_that_cannot_be_had(nano: torch.nn.Module) -> None:
    with pytest.raises(OptionError, match=r"unknown branch 'one2one'; did you mean 'one-to-one'\?"):
        parse_branch("one2one")
    with pytest.raises(PreparationError, match="a Detect head without one-to-one branch; use one-to-many"):
        prepare(nano, head=Head.RAW, image_size=SIZE, branch=Branch.ONE_TO_ONE)
    model = build(find_model("yolo26n"), names=NAMES)
    with pytest.raises(PreparationError, match="plain and one-to-one together is top-k in the graph"):
        prepare(model, head=Head.PLAIN, image_size=SIZE, branch=Branch.ONE_TO_ONE)


def test_heads_and_blocks_that_are_not_known_are_refused() -> None:
    from ultralytics.nn.tasks import PoseModel

    with pytest.raises(PreparationError, match="cannot prepare a Pose head; known: Detect, Segment"):
        prepare(PoseModel("yolo11n-pose.yaml", nc=1, verbose=False), head=Head.RAW, image_size=SIZE)
    model = build_network("yolo12n.yaml", task="detect", names=NAMES)
    with pytest.raises(PreparationError, match="the block A2C2f has no static form here; known families are"):
        prepare(model, head=Head.RAW, image_size=SIZE)
