"""What can go wrong, one class and one exit code a kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ModelError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 30


class UnknownModelError(ModelError):
    """No model of that name in the registry."""

    exit_code: ClassVar[int] = 31


class OptionError(ModelError):
    """An option or its value that is not known."""

    exit_code: ClassVar[int] = 32


class DataFileError(ModelError):
    """data.yaml is missing or is no dataset description, or an image in it cannot be read."""

    exit_code: ClassVar[int] = 33


class ClassMismatchError(ModelError):
    """The classes of data.yaml are not those of the checkpoint."""

    exit_code: ClassVar[int] = 34


class MissingCheckpointError(ModelError):
    """No such checkpoint file."""

    exit_code: ClassVar[int] = 35


class CorruptCheckpointError(ModelError):
    """The checkpoint cannot be read at all."""

    exit_code: ClassVar[int] = 36


class CheckpointMetadataError(ModelError):
    """The checkpoint lacks hexpath's metadata, or the metadata contradicts itself."""

    exit_code: ClassVar[int] = 37


class WrongTaskError(ModelError):
    """The checkpoint is of another task than the command needs."""

    exit_code: ClassVar[int] = 38


class WeightShapeError(ModelError):
    """Tensors are missing, unexpected, or of another shape than the architecture's."""

    exit_code: ClassVar[int] = 39


class NonFiniteWeightsError(ModelError):
    """NaN or infinity in the weights."""

    exit_code: ClassVar[int] = 40


class UnsafeFileError(ModelError):
    """A .pt file wants to run code, or build objects, that are not on the list of allowed ones."""

    exit_code: ClassVar[int] = 41


class ForeignFileError(ModelError):
    """A .pt file that holds no detector of this registry."""

    exit_code: ClassVar[int] = 42


class MissingWeightsError(ModelError):
    """Published weights are not here and were not downloaded."""

    exit_code: ClassVar[int] = 43


class PreparationError(ModelError):
    """The network cannot be made static: unknown head, fused layers, impossible image size."""

    exit_code: ClassVar[int] = 44


class LossError(ModelError):
    """The loss was asked of a head that has none."""

    exit_code: ClassVar[int] = 45


class TrainingError(ModelError):
    """Training ended without a usable model."""

    exit_code: ClassVar[int] = 46


class ExportMismatchError(ModelError):
    """The exported file does not compute what the network computes."""

    exit_code: ClassVar[int] = 47


class DiskFullError(ModelError):
    """No space left while writing."""

    exit_code: ClassVar[int] = 48


class WriteError(ModelError):
    """An output cannot be written where it was asked for."""

    exit_code: ClassVar[int] = 49


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence that offers the nearest of the known names, or lists them all."""
    names = sorted(str(name) for name in known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
