"""What can go wrong, one class and one exit code a kind.

A message says what was found, where, and what to do next, in one line. The
command line prints it and returns the code; 2 stays argparse's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class DeployError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 70


class UnreadableModelError(DeployError):
    """The file is no ONNX model, is cut off, or cannot be run as it is."""

    exit_code: ClassVar[int] = 71


class MetadataError(DeployError):
    """The model does not say, or says wrongly, how to feed and decode it."""

    exit_code: ClassVar[int] = 72


class DynamicShapeError(DeployError):
    """The model has a dimension that is no fixed number."""

    exit_code: ClassVar[int] = 73


class UnsupportedOperatorError(DeployError):
    """The NPU cannot run an operator of the model."""

    exit_code: ClassVar[int] = 74


class ToolchainMissingError(DeployError):
    """onnxruntime-qnn is missing, or does not exist for this platform."""

    exit_code: ClassVar[int] = 75


class CompileError(DeployError):
    """Qualcomm's compiler refused the model."""

    exit_code: ClassVar[int] = 76


class ToolchainCrashError(DeployError):
    """Qualcomm's compiler or emulator ended with a signal."""

    exit_code: ClassVar[int] = 77


class ToolchainTimeoutError(DeployError):
    """Qualcomm's compiler or emulator took longer than its limit."""

    exit_code: ClassVar[int] = 78


class UnknownTargetError(DeployError):
    """No target of that name."""

    exit_code: ClassVar[int] = 79


class AgreementError(DeployError):
    """The compiled artifact does not compute what the model computes."""

    exit_code: ClassVar[int] = 80


class StaleArtifactError(DeployError):
    """A compiled artifact, a recording or a record belongs to another model."""

    exit_code: ClassVar[int] = 81


class DatasetError(DeployError):
    """The COCO file or an image of it cannot be used."""

    exit_code: ClassVar[int] = 82


class OptionError(DeployError):
    """A value that the command cannot use."""

    exit_code: ClassVar[int] = 83


class EstimateError(DeployError):
    """Qualcomm's tools give no estimate for this target."""

    exit_code: ClassVar[int] = 84


class DiskFullError(DeployError):
    """No space left while writing."""

    exit_code: ClassVar[int] = 85


class RecordError(DeployError):
    """A stage file of the record is missing, or is not what it must be."""

    exit_code: ClassVar[int] = 86


class GatesFileError(DeployError):
    """The limits of the release gates cannot be read."""

    exit_code: ClassVar[int] = 87


class BundleError(DeployError):
    """A bundle cannot be made of what is there, or is not what its checksums say."""

    exit_code: ClassVar[int] = 88


class GateError(DeployError):
    """A release gate failed, or has no figure."""

    exit_code: ClassVar[int] = 89


class BoardUnreachableError(DeployError):
    """The board does not answer: unknown host or serial number, off, or the connection was lost."""

    exit_code: ClassVar[int] = 95


class BoardUnauthorizedError(DeployError):
    """The board answers, but lets nobody in: no key, adb not confirmed, or another host key."""

    exit_code: ClassVar[int] = 96


class BoardToolMissingError(DeployError):
    """adb or ssh is missing here, or qnn-net-run, python or an NPU is missing on the board."""

    exit_code: ClassVar[int] = 97


class BoardSpaceError(DeployError):
    """No space left on the board."""

    exit_code: ClassVar[int] = 98


class BoardTimeoutError(DeployError):
    """The board took longer than the limit."""

    exit_code: ClassVar[int] = 99


class BoardRunError(DeployError):
    """What ran on the board failed, was killed, or left something else than it should."""

    exit_code: ClassVar[int] = 120


class HubMissingError(DeployError):
    """qai-hub is not installed."""

    exit_code: ClassVar[int] = 121


class HubTokenError(DeployError):
    """There is no API token for Qualcomm AI Hub, or it is not accepted."""

    exit_code: ClassVar[int] = 122


class HubJobError(DeployError):
    """AI Hub refused a job, or a job failed."""

    exit_code: ClassVar[int] = 123


class HubUnreachableError(DeployError):
    """AI Hub does not answer, also not after several tries, or took longer than the limit."""

    exit_code: ClassVar[int] = 124


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'qcs9075'? Known: ...`` for an unknown name."""
    names = list(known)
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    guess = f"; did you mean '{close[0]}'?" if close else "."
    return f"{guess} Known: {', '.join(names)}"


class ResultsError(DeployError):
    """A results.json is missing, or does not fit its schema."""

    exit_code: ClassVar[int] = 90


class ReportError(DeployError):
    """A file that a results.json names (curve, image, boxes) is missing or broken."""

    exit_code: ClassVar[int] = 91


class TrackingMissingError(DeployError):
    """wandb is not installed."""

    exit_code: ClassVar[int] = 92


class TrackingError(DeployError):
    """W&B did not take the results; they stand in results.json as before."""

    exit_code: ClassVar[int] = 93


class EncodingError(DeployError):
    """A quantization encoding contradicts the graph that it stands in."""

    exit_code: ClassVar[int] = 94
