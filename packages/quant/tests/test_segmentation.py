"""What segmentation networks have and detectors do not: lone norms, ReLUs, resizing to a size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from net import images
from onnx import numpy_helper
from torch import Tensor, nn

from hexpath_quant.errors import ExportError
from hexpath_quant.export import apply_workarounds, export, write_qdq
from hexpath_quant.folding import fold
from hexpath_quant.plans import parse_plan
from hexpath_quant.prepare import prepare
from hexpath_quant.qdq import Graph, check_graph, check_tied
from hexpath_quant.sim import build_sim, calibrate


class TwoBranches(nn.Module):
    """A coarse branch resized to the fine one's size, a norm behind the sum, linear attention."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.Conv2d(3, 3, 1, groups=3)
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.down, self.post = nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.head = nn.ReLU(), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        fine = self.relu(self.bn(self.stem(self.normalize(x))))
        coarse = F.interpolate(self.down(fine), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        mixed = self.relu(self.post(coarse + fine))
        tokens = mixed.reshape(-1, 2, 4, fine.shape[-2] * fine.shape[-1])
        mixed = torch.matmul(torch.matmul(tokens, tokens.transpose(-1, -2)), tokens) / (
            torch.sum(tokens, -1, True) + 1.0
        )
        return (self.head(mixed.reshape(-1, 8, fine.shape[-2], fine.shape[-1])),)


def randomized() -> nn.Module:
    torch.manual_seed(3)
    net = TwoBranches()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def test_norms_that_nothing_absorbs_become_convolutions() -> None:
    prepared = prepare(randomized(), example=images(1, seed=0))
    kinds = {name: type(module) for name, module in prepared.named_modules()}
    assert nn.BatchNorm2d not in kinds.values()
    assert kinds["post"] is nn.Conv2d
    assert prepared.post.groups == 8


class Movers(nn.Module):
    """Every functional operator that moves data, in front of what has a wider range."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(16, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = F.max_pool2d(F.pad(fine, [1, 1, 1, 1]), 2)
        back = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(torch.cat([back, 40 * self.wide(x)], 1))


def test_what_moves_data_keeps_its_encoding(tmp_path) -> None:
    torch.manual_seed(0)
    example = images(1, seed=0)
    sim = build_sim(prepare(Movers().eval(), example=example), example=example, plan=parse_plan("w8a8"))
    calibrate(sim, batches=[images(4, seed=1)])
    names = {"input_names": ["images"], "output_names": ["logits"]}
    path = tmp_path / "q.onnx"
    write_qdq(sim, path=path, example=example, **names)
    apply_workarounds(path)
    graph = Graph(check_graph(path))
    assert {"Resize", "Pad", "MaxPool"} <= {node.op_type for node in graph.nodes}
    resize = next(node for node in graph.nodes if node.op_type == "Resize")
    (behind,) = graph.readers[resize.output[0]]
    scale = numpy_helper.from_array(np.float32(2 * graph.value(behind.input[1])), "twice")
    graph.model.graph.initializer.append(scale)
    behind.input[1] = "twice"
    with pytest.raises(ExportError, match=r"Resize '.*' reads scale .* and writes .*; the NPU has one"):
        check_tied(Graph(graph.model))


def test_exported_graph_is_static_without_islands_and_the_same(tmp_path) -> None:
    sim = build_sim(
        prepare(randomized(), example=images(1, seed=0)), example=images(1, seed=0), plan=parse_plan("w8a8")
    )
    calibrate(sim, batches=[images(4, seed=1)])
    figures = export(
        sim,
        out=tmp_path / "q",
        example=images(1, seed=0),
        samples=images(2, seed=2),
        input_names=["images"],
        output_names=["logits"],
        plan=parse_plan("w8a8"),
        method="ptq:minmax",
        metadata={},
        card={},
    )
    assert figures["logits"] > 25
    model = onnx.load(tmp_path / "q" / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert not {"Shape", "Identity"} & set(kinds)
    assert kinds.count("Relu") < 2  # the stem's is absorbed by its quantizer
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 4, 16, 16]
    assert fold(model) == 0
