"""mIoU against torchmetrics, and the losses against their formulas."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from hexpath_models.errors import DataFileError, LossError
from hexpath_models.semantic.dataset import IGNORE
from hexpath_models.semantic.losses import class_weights, cross_entropy, focal, ohem
from hexpath_models.semantic.scoring import Confusion, classes_of, score

NAMES = {0: "a", 1: "b", 2: "c", 3: "d"}


def pairs(count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(count):
        truth = torch.randint(0, 4, (20, 30), generator=generator)
        found = torch.where(
            torch.rand(20, 30, generator=generator) < 0.6,
            truth,
            torch.randint(0, 4, (20, 30), generator=generator),
        )
        truth[:3] = IGNORE
        result.append((found, truth))
    return result


def test_iou_equals_torchmetrics() -> None:
    ours = Confusion(NAMES)
    theirs = MulticlassJaccardIndex(4, average=None, ignore_index=IGNORE)
    for found, truth in pairs():
        ours.add(found, truth)
        theirs.update(found, truth)
    expected = theirs.compute()
    result = ours.score()
    assert [entry["iou"] for entry in result.per_class.values()] == pytest.approx(expected.tolist())
    assert result.miou == pytest.approx(float(expected.mean()))
    assert list(result.metrics()) == ["miou", "pixel_accuracy"]


def test_a_class_without_true_pixels_does_not_count() -> None:
    ours = Confusion(NAMES)
    ours.add(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1, 1]))
    result = ours.score()
    assert result.per_class == {"a": {"iou": 1.0}, "b": {"iou": 0.5}}
    assert result.miou == 0.75
    assert result.pixel_accuracy == 0.75


def test_nothing_to_score() -> None:
    ours = Confusion(NAMES)
    ours.add(torch.zeros(4, 4), torch.full((4, 4), IGNORE))
    with pytest.raises(DataFileError, match="hold nothing but ignored pixels"):
        ours.score()


def test_logits_are_enlarged_to_the_mask() -> None:
    truth = torch.zeros(64, 80, dtype=torch.uint8)
    truth[:, 40:] = 2

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = torch.zeros(1, 4, 4, 4)
        logits[:, 0, :, :2], logits[:, 2, :, 2:] = 10, 10
        return (logits,)

    result = score(forward, [(torch.zeros(1, 3, 32, 32), [truth])], names=NAMES)
    assert result.miou > 0.95
    assert classes_of(torch.zeros(1, 4, 4, 4), input_size=(32, 32), size=(7, 9)).shape == (1, 7, 9)


LOGITS = torch.tensor([[2.0, 0.5], [0.0, 1.0]]).reshape(1, 2, 1, 2)  # two classes, two pixels
TRUTH = torch.tensor([[[0, 1]]])
P = torch.softmax(LOGITS, 1)[0, [0, 1], 0, [0, 1]]
W = torch.tensor([3.0, 0.5])


def test_losses_are_their_formulas() -> None:
    surprise = -P.log()
    torch.testing.assert_close(cross_entropy(LOGITS, TRUTH, W), (W * surprise).mean())
    torch.testing.assert_close(focal(LOGITS, TRUTH, W), (W * (1 - P) ** 2 * surprise).mean())
    torch.testing.assert_close(focal(LOGITS, TRUTH, None, 0.0), cross_entropy(LOGITS, TRUTH))
    torch.testing.assert_close(ohem(LOGITS, TRUTH, W, 0.7), (W * surprise)[P < 0.7].mean())
    torch.testing.assert_close(ohem(LOGITS, TRUTH, None, 0.01, 0.5), surprise.max())


def test_a_weight_inside_the_cross_entropy_would_change_the_focus() -> None:
    inside = torch.nn.functional.cross_entropy(LOGITS, TRUTH, weight=W, reduction="none")[0, 0]
    wrong = ((1 - torch.exp(-inside)) ** 2 * inside).mean()
    assert abs(float(focal(LOGITS, TRUTH, W) - wrong)) > 0.1 * float(wrong)


def test_ignored_pixels_do_not_count() -> None:
    truth = torch.tensor([[[0, IGNORE]]])
    torch.testing.assert_close(cross_entropy(LOGITS, truth), -P[0].log())
    with pytest.raises(LossError, match="every pixel of this batch is ignored"):
        focal(LOGITS, torch.full_like(truth, IGNORE))


def test_class_weights_favour_the_rare() -> None:
    weights = class_weights(torch.tensor([900, 100, 0]))
    assert float(weights[1] / weights[0]) == pytest.approx(3.0)
    assert float(weights[2]) == 1.0
    assert float(class_weights(torch.tensor([10**9, 10])).max()) <= 5.0
