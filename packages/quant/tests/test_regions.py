"""Regions: names that a person knows, every operator in exactly one, the same ones in the exported file."""

from __future__ import annotations

import json

import onnx
import pytest
import torch
from net import images, trained_net
from torch import Tensor, nn

from hexpath_quant import cli
from hexpath_quant.errors import OutputError, PlanError, UnknownNameError
from hexpath_quant.prepare import prepare
from hexpath_quant.regions import NO_OPERATORS, read_overrides, regions_of, regions_of_nodes

OUTPUTS = ("boxes", "scores")


def regions(model: nn.Module, **more):
    return regions_of(prepare(model, example=images(1, seed=1)), **more)


def block(a: int, b: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())


class SPPF(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = block(8, 8), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([self.pool(x[:, :4]), x[:, 4:]], 1))


class Detect(nn.Module):
    """Branches as Ultralytics names them: cv2 boxes, cv3 scores, a level each."""

    def __init__(self) -> None:
        super().__init__()
        self.cv2 = nn.ModuleList(nn.Sequential(block(8, 8), nn.Conv2d(8, 4, 1)) for _ in range(2))
        self.cv3 = nn.ModuleList(nn.Conv2d(8, 2, 1) for _ in range(2))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        pairs = zip(features, self.cv2, self.cv3, strict=True)
        return tuple(branch(x) for x, *branches in pairs for branch in branches)


class Numbered(nn.Module):
    """A ModuleList of numbered blocks, as a YOLO has."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 8, 2), (8, 8, 2), (8, 8, 2), (8, 8, 2)]
        self.model = nn.ModuleList(
            [*(block(*w) for w in widths), SPPF(), nn.Upsample(scale_factor=2), Detect()]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        for layer in self.model[:3]:
            x = layer(x)
        fine, coarse = x, self.model[4](self.model[3](x))
        return self.model[6]([self.model[5](coarse) + fine, coarse])


def test_named_children_keep_their_names():
    found = regions(trained_net(), output_names=OUTPUTS)
    assert list(found) == ["stem", "block", "mix", "down", "qkv", "proj", "head.boxes", "head.scores"]
    assert found["mix"] == ("mix", "silu_sigmoid", "silu", "pool", "cat_1")


def test_numbered_blocks_are_named_by_stride_and_class():
    found = regions(Numbered(), output_names=("boxes_8", "scores_8", "boxes_16", "scores_16"))
    assert found == {
        "stem": ("model.0",),
        "stage2": ("model.1",),
        "stage3": ("model.2",),
        "stage4": ("model.3",),
        "sppf": ("model.4",),
        "neck": ("model.5", "add"),
        "head.boxes.8": ("model.6.cv2.0",),
        "head.scores.8": ("model.6.cv3.0",),
        "head.boxes.16": ("model.6.cv2.1",),
        "head.scores.16": ("model.6.cv3.1",),
    }


class Mixer(nn.Module):
    """A stage that is never called: the network's forward calls what is in it."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.embed, self.norm, self.mlp = nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.Conv2d(b, b, 1)


class Rewritten(nn.Module):
    """Another library's modules under a forward of one's own, as the static SegFormer is."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Mixer(3, 8), Mixer(8, 8), Mixer(8, 8)])
        self.classifier = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage.norm(stage.embed(x))
            x = x + stage.mlp(x)
        return self.classifier(x)


def test_numbered_stages_that_are_never_called():
    found = regions(Rewritten())
    assert list(found) == ["stem", "stage2", "stage3", "classifier"]


def test_a_plain_sequential_ends_in_its_head():
    net = nn.Sequential(block(3, 8, 2), block(8, 8, 2), nn.Conv2d(8, 2, 1))
    assert regions(net) == {"stem": ("0",), "stage2": ("1",), "head": ("2",)}


@pytest.mark.parametrize("model", [trained_net(), Numbered(), nn.Sequential(block(3, 8), nn.Conv2d(8, 2, 1))])
@pytest.mark.parametrize("level", ["block", "layer"])
def test_every_operator_has_one_region(model, level):
    prepared = prepare(model.eval(), example=images(1, seed=1))
    found = regions_of(prepared, level=level)
    owner = regions_of_nodes(prepared.graph, regions=found)
    assert set(owner) == {n.name for n in prepared.graph.nodes if n.op.startswith("call")}
    assert set(owner.values()) == set(found)
    prefixes = [p for listed in found.values() for p in listed]
    assert len(prefixes) == len(set(prefixes))


def test_a_module_that_is_not_prepared():
    assert regions_of(trained_net(), example=images(1, seed=1), output_names=OUTPUTS)["stem"] == ("stem",)
    with pytest.raises(UnknownNameError, match="Net is not prepared; give an example input"):
        regions_of(trained_net())
    with pytest.raises(UnknownNameError, match="unknown level 'blok'; did you mean 'block'"):
        regions(trained_net(), level="blok")


def test_overrides(tmp_path):
    (tmp_path / "r.yaml").write_text("attention: [qkv, proj]\nfirst: stem.0\n")
    found = regions(trained_net(), output_names=OUTPUTS, overrides=read_overrides(tmp_path / "r.yaml"))
    assert found["first"] == ("stem.0",)
    assert found["stem"] == ("stem.2_sigmoid", "stem.2")
    assert found["attention"] == ("qkv", "proj")
    assert found["qkv"] == ("matmul", "mul_2", "softmax", "matmul_1")
    with pytest.raises(UnknownNameError, match="no module has the prefix 'qkw'; did you mean 'qkv'"):
        regions(trained_net(), overrides={"a": ["qkw"]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a, b]", "is no mapping of regions"),
        ("a: 3", "region 'a' must list module prefixes, found 3"),
        ("a: [1, 2]", "region 'a' must list module prefixes"),
        ("a: [", "is no YAML"),
    ],
)
def test_unreadable_overrides(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(PlanError, match=says):
        read_overrides(tmp_path / "r.yaml")
    with pytest.raises(OutputError, match=r"--regions .*nowhere does not exist"):
        read_overrides(tmp_path / "nowhere")


def test_the_file_tells_its_regions(installed, inputs, tmp_path):
    assert cli.main(["ptq", *inputs]) == 0
    model = onnx.load(tmp_path / "out" / "model.onnx")
    told = json.loads({p.key: p.value for p in model.metadata_props}["hexpath.regions"])
    assert list(told) == ["stem", "block", "mix", "down", "qkv", "proj", "head.boxes", "head.scores"]
    nodes = [name for listed in told.values() for name in listed]
    assert sorted(nodes) == sorted(n.name for n in model.graph.node if n.op_type not in NO_OPERATORS)
    kinds = {n.name: n.op_type for n in model.graph.node}
    attention = "Conv Reshape Split Transpose MatMul Mul Softmax Transpose MatMul Reshape"
    assert " ".join(kinds[n] for n in told["qkv"]) == attention
    assert [kinds[n] for n in told["head.boxes"]] == ["Conv"]


def test_the_command(installed, inputs, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("both: [boxes, scores]")
    arguments = inputs[: inputs.index("--out")]
    assert cli.main(["regions", *arguments, "--regions", str(tmp_path / "r.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "stem: [stem]\n" in printed
    assert "both: [boxes, scores]\n" in printed
    (tmp_path / "again.yaml").write_text(printed)
    assert read_overrides(tmp_path / "again.yaml")["both"] == ("boxes", "scores")
