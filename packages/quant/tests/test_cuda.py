"""Quantization on a GPU: the same numbers as on the CPU, and training that a CPU can export."""

from __future__ import annotations

import json

import pytest
import torch
from net import SmallTask, images, trained_net

from hexpath_quant import quantize
from hexpath_quant.lean import LeanTwin
from hexpath_quant.plans import parse_plan
from hexpath_quant.qat import qat
from hexpath_quant.recipe import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class OnGpu(SmallTask):
    """The small task with everything on the GPU, as a task with the option device=cuda gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = self.teacher.cuda()

    def float_model(self):
        return super().float_model().cuda()

    def calibration(self, count):
        return (batch.cuda() for batch in super().calibration(count))

    def training(self, *, batch, epoch, seed):
        for index in range(self.batches):
            pictures = images(batch, seed=seed * 1000 + epoch * 100 + index).cuda()
            with torch.no_grad():
                wanted = self.teacher(pictures)
            yield pictures, wanted

    def evaluate(self, forward):
        pictures = images(16, seed=400).cuda()
        with torch.no_grad():
            wanted = self.teacher(pictures)
        error = sum(
            float((a.to(b) - b).square().mean()) for a, b in zip(forward(pictures), wanted, strict=True)
        )
        return {"map": 1 / (1 + 100 * error), "error": error}


@pytest.mark.parametrize("plan", ["w8a8", "w4a8", "w8a16"])
def test_the_twin_computes_what_it_does_on_the_cpu(make_sim, plan):
    sim = make_sim(plan)
    pictures = images(4, seed=7)
    with torch.no_grad():
        wanted = LeanTwin(sim)(pictures)
        sim.model.cuda()
        found = LeanTwin(sim)(pictures.cuda())
    for a, b in zip(found, wanted, strict=True):
        # single roundings may fall to the other side, whole tensors not
        noise = (a.cpu() - b).square().mean() / b.square().mean()
        assert noise < 1e-3, noise


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranges", ["frozen", "learned"])
def test_qat_trains_and_exports(tmp_path, precision, ranges):
    recipe = Recipe(epochs=3, lr=1e-3, batch=4, precision=precision, ranges=ranges, device="cuda")
    metrics = qat(
        OnGpu(),
        plan=parse_plan("w4a8"),
        method="minmax",
        calibration=8,
        recipe=recipe,
        out=tmp_path / "out",
        work=tmp_path / "work",
    )
    card = json.loads((tmp_path / "out" / "quant.json").read_text())
    assert card["best_epoch"] >= 1
    assert metrics["map"] > 0
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_model_on_the_gpu_and_images_from_the_cpu(tmp_path):
    batches = [images(8, seed=index) for index in range(2)]
    on_gpu = quantize(trained_net().cuda(), calibration=batches, plan="w8a8", out=tmp_path / "gpu")
    on_cpu = quantize(trained_net(), calibration=batches, plan="w8a8", out=tmp_path / "cpu")
    assert min(on_gpu.values()) > 20
    assert on_gpu.keys() == on_cpu.keys()
