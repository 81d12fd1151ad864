"""Each rule on a net that has its fault and on one that has not; verdicts; the command; ONNX files."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from net import images, trained_net
from torch import nn

from hexpath_quant import cli, task
from hexpath_quant.audit import onnx_file
from hexpath_quant.audit.rules import RULES
from hexpath_quant.audit.run import audit
from hexpath_quant.audit.table import table
from hexpath_quant.audit.traced import network_of
from hexpath_quant.errors import CalibrationError, OutputError, QuantError
from hexpath_quant.plans import parse_plan


class Formula(nn.Module):
    """A convolution, then whatever a test wants to know of."""

    def __init__(self, formula, **buffers):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.formula = nn.Conv2d(3, 4, 3, padding=1), formula
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.formula(self, F.relu(self.conv(x)))


def findings(formula, *, plan="w8a8", **buffers):
    network = network_of(Formula(formula, **buffers).eval(), batches=[images(4, seed=1)])
    return audit(network, plan=parse_plan(plan), model="formula", images=4)


def rules(found):
    return {(finding.rule, str(finding.severity)) for finding in found.findings}


def linear_attention(net, x):
    """Numerator and denominator as rows of one product, as EfficientViT has it."""
    tokens = x.reshape(-1, 4, 1024)
    padded = F.pad(tokens, (0, 0, 0, 1), mode="constant", value=1.0)
    product = torch.matmul(torch.matmul(padded, tokens.transpose(-1, -2)), tokens)
    num, den = torch.split(product, [4, 1], 1)
    return num / (den + 1e-15)


CASES = {
    "division": (linear_attention, lambda net, x: x / (F.relu(x) + 1.0)),
    "epsilon": (lambda net, x: x / (x + 1e-6), lambda net, x: (x + 1e-6) * 2),
    "concat": (
        lambda net, x: torch.cat([x * 640, torch.sigmoid(x)], 1),
        lambda net, x: torch.cat([x, torch.sigmoid(x)], 1),
    ),
    "softmax": (lambda net, x: torch.softmax(x * 2000, 1), lambda net, x: torch.softmax(x, 1)),
    "tails": (lambda net, x: F.silu(net.conv(x[:, :3]) * 5000), lambda net, x: F.silu(x)),
    "residual": (lambda net, x: x * 1000 + x, lambda net, x: x + x * 0.5),
    "resize": (
        lambda net, x: F.interpolate(x, scale_factor=2, mode="bicubic"),
        lambda net, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    ),
    "overflow": (lambda net, x: (x * 1e4) * (x * 1e4), lambda net, x: x * x),
    "operators": (lambda net, x: torch.erfinv(x * 0), lambda net, x: torch.exp(x)),
}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_its_fault_and_nothing_else(rule):
    bad, good = CASES[rule]
    assert {"severe", "warning"} & {s for r, s in rules(findings(bad)) if r == rule}
    assert rule not in {r for r, _ in rules(findings(good))}


def test_softmax_whose_one_peak_leaves_nothing_for_the_rest():
    peak = torch.zeros(1, 4, 1024)
    peak[:, 0, 0] = 20
    found = findings(lambda net, x: torch.softmax(x.flatten(2) * 0.1 + net.peak, 2), peak=peak)
    assert ("softmax", "warning") in rules(found)
    assert "rounds to zero" in found.findings[0].reason
    assert not rules(findings(lambda net, x: torch.softmax(x.flatten(2), 2)))  # its step is small as it is


def test_decode():
    anchors = torch.arange(32 * 32, dtype=torch.float32).reshape(1, 1, 32, 32)
    assert ("decode", "warning") in rules(findings(lambda net, x: x + net.anchors, anchors=anchors))
    before_a_convolution = findings(
        lambda net, x: F.relu(net.conv((x + net.anchors)[:, :3])), anchors=anchors / 1000
    )
    assert "decode" not in {r for r, _ in rules(before_a_convolution)}


def test_layer_norm_with_an_outlier_channel():
    scale = torch.tensor([1.0, 1.0, 1.0, 500.0]).reshape(1, 4, 1, 1)
    norm = lambda net, x: F.group_norm(x * net.scale, 1)  # noqa: E731
    assert "unknown" not in str(findings(lambda net, x: x * net.scale, scale=scale).findings)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4)).eval()
    with torch.no_grad():
        net[0].weight[3] *= 500
    found = audit(
        network_of(net, batches=[images(2, seed=1)]), plan=parse_plan("w8a8"), model="norm", images=2
    )
    assert ("layer_norm", "warning") in rules(found)
    assert ("operators", "severe") in rules(findings(norm, scale=scale))  # the function has no quantized form


@pytest.mark.parametrize(
    ("plan", "expected"),
    [("w8a8", set()), ("w8a8-per-tensor", {"severe"}), ("w4a8", set()), ("w4a8-per-tensor", {"severe"})],
)
def test_weights_of_unlike_channels(plan, expected):
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    with torch.no_grad():
        net[0].weight[1:4] *= 0.005
    network = network_of(net.eval(), batches=[images(2, seed=1)])
    found = audit(network, plan=parse_plan(plan), model="conv", images=2)
    assert {s for r, s in rules(found) if r == "weights" and s == "severe"} == expected


def test_more_bits_heal():
    bad, _ = CASES["residual"]
    assert findings(bad).verdict == "risky"
    assert findings(bad, plan="w8a16").verdict == "safe"


def test_a_detectors_net_is_safe_and_its_joined_outputs_are_not():
    batches = [images(4, seed=1)]
    plan = parse_plan("w8a8")
    names = ("boxes", "scores")
    sound = audit(
        network_of(trained_net(), batches=batches, output_names=names), plan=plan, model="", images=4
    )
    assert sound.verdict != "unsafe"

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = trained_net()

        def forward(self, x):
            boxes, scores = self.net(x)
            return torch.cat([boxes[:, :, :8, :8] * 640, scores.sigmoid()], 1)

    found = audit(network_of(Joined().eval(), batches=batches), plan=plan, model="", images=4)
    assert found.verdict == "unsafe"
    assert found.findings[0].rule == "concat"


def test_no_images_and_no_onnx(tmp_path):
    with pytest.raises(CalibrationError, match="the audit needs at least one image"):
        network_of(trained_net(), batches=[])
    with pytest.raises(CalibrationError, match=r"recorded.npz does not exist; give --images"):
        onnx_file.recorded_images(tmp_path / "model.onnx", images=None)
    np.savez(tmp_path / "other.npz", pictures=np.zeros(1))
    with pytest.raises(CalibrationError, match="has no array 'images'"):
        onnx_file.recorded_images(tmp_path / "model.onnx", images=tmp_path / "other.npz")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(OutputError, match="ONNX"):
        onnx_file.network_of(tmp_path / "broken.onnx", images=np.zeros((1, 3, 8, 8), np.float32))


@pytest.fixture
def exported(tmp_path):
    """Return a function formula -> ONNX file with recorded images beside it."""

    def make(formula):
        path = tmp_path / "model.onnx"
        example = images(1, seed=1)
        torch.onnx.export(Formula(formula).eval(), (example,), str(path), dynamo=False, opset_version=17)
        np.savez(tmp_path / "recorded.npz", images=images(3, seed=2).numpy())
        return path

    return make


@pytest.mark.parametrize("rule", ["division", "concat", "softmax", "tails", "residual", "resize", "epsilon"])
def test_an_onnx_file_shows_the_same(exported, rule):
    bad, good = CASES[rule]
    for formula, expected in ((bad, True), (good, False)):
        path = exported(formula)
        network = onnx_file.network_of(path, images=onnx_file.recorded_images(path, images=None))
        found = audit(network, plan=parse_plan("w8a8"), model="file", images=3)
        assert (rule in {f.rule for f in found.findings if f.severity != "note"}) is expected


def test_a_quantized_file_is_refused(exported):
    path = exported(lambda net, x: x)
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["a", "b"], ["c"]))
    onnx.save(model, path)
    with pytest.raises(QuantError, match="is quantized already"):
        onnx_file.network_of(path, images=np.zeros((1, 3, 32, 32), np.float32))


def test_the_table_tells_a_remedy_once_and_the_verdict():
    text = table(findings(linear_attention))
    assert text.count("remedy: divide the factors") == 1
    assert "formula at w8a8: UNSAFE (" in text
    assert max(map(len, text.splitlines())) <= 100


def test_command(monkeypatch, tmp_path, capsys, exported):
    point = EntryPoint("small", "net:small_task", task.GROUP)
    monkeypatch.setattr(task, "entry_points", lambda group: [point])
    (tmp_path / "m").touch()
    source = ["--task", "small", "--checkpoint", str(tmp_path / "m"), "--data", str(tmp_path / "m")]
    out = tmp_path / "audit.json"
    assert cli.main(["audit", *source, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["schema"] == 1
    assert record["verdict"] in capsys.readouterr().out.lower()
    assert set(record["findings"][0] if record["findings"] else FIELDS) == FIELDS
    path = exported(linear_attention)
    assert cli.main(["audit", str(path)]) == 0
    assert cli.main(["audit", str(path), "--strict"]) == 65
    assert "model.onnx is unsafe at w8a8: division at" in capsys.readouterr().err
    assert cli.main(["audit", str(tmp_path / "none.onnx")]) == 61
    assert cli.main(["audit", "--task", "small"]) == 61
    assert "--checkpoint is missing" in capsys.readouterr().err
    assert cli.main(["audit", *source[:2], "--checkpoint", "nowhere", "--data", "nowhere"]) == 61
    assert cli.main(["rules"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in RULES)


FIELDS = {"rule", "where", "figure", "limit", "reason", "remedy", "severity"}


def test_command_line_without_torch():
    code = "import sys, hexpath_quant.audit.command as c; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
