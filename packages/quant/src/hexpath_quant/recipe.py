"""How long and how fast to train; no torch here, the command reads its defaults from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A quantization-aware training run.

    Attributes:
        epochs: over the training split; 0 exports the post-training state.
        lr: peak learning rate of the weights (AdamW), after the warm-up, cosine to ``lr_end * lr``.
        range_lr: of the range ends, as a multiple of ``lr``.
        batch: images a step.
        seed: of order and augmentation.
        ranges: activation ranges ``learned`` with the weights or ``frozen`` after calibration.
        precision: of activations while training; the scores are always float32's.
        ema: decay of the averaged weights at the end of its ramp.
        warmup: share of all steps.
        clip: largest norm of the gradient.
        device: cpu or cuda[:N].
    """

    epochs: int = 5
    lr: float = 5e-4
    range_lr: float = 1.0
    lr_end: float = 0.05
    batch: int = 8
    seed: int = 0
    ranges: str = "frozen"
    precision: str = "bfloat16"
    weight_decay: float = 0.0
    ema: float = 0.99
    warmup: float = 0.1
    clip: float = 10.0
    device: str = "cpu"
