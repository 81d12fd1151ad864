"""What can go wrong, one class and one exit code (50 to 69) a kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class QuantError(Exception):
    """Base of all errors of this package; the command prints it in one line."""

    exit_code: ClassVar[int] = 50


class UnknownNameError(QuantError):
    """A plan, method or option that does not exist."""

    exit_code = 51


class TaskError(QuantError):
    """No such task is installed, or a task does not keep to the protocol."""

    exit_code = 52


class TraceError(QuantError):
    """The model cannot be traced, or has an operator that has no quantized form."""

    exit_code = 53


class WeightsError(QuantError):
    """Weights or calibration data hold NaN or infinity."""

    exit_code = 54


class PreparationError(QuantError):
    """The prepared model computes something else than the float model."""

    exit_code = 55


class CalibrationError(QuantError):
    """No calibration data, or data of a wrong shape or range."""

    exit_code = 56


class ExportError(QuantError):
    """The exported graph breaks a rule that the NPU's compiler or numerics need."""

    exit_code = 57


class AgreementError(QuantError):
    """The exported file computes something else than the simulation."""

    exit_code = 58


class TrainingError(QuantError):
    """The loss became NaN or infinite."""

    exit_code = 59


class DiskFullError(QuantError):
    """No space left while writing."""

    exit_code = 60


class OutputError(QuantError):
    """A file that is needed is missing, or the output cannot be written."""

    exit_code = 61


class DeviceError(QuantError):
    """The asked-for device is not there."""

    exit_code = 62


class StateError(QuantError):
    """The saved state of an earlier training cannot be read."""

    exit_code = 63


class PlanError(QuantError):
    """A plan or region file that does not say what it must."""

    exit_code = 64


class UnsafeError(QuantError):
    """The audit finds a model unsafe, and --strict asks for an error then."""

    exit_code = 65


class PlanningError(QuantError):
    """No plan keeps to the limits that were asked for."""

    exit_code = 66


def unknown_name(*, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown ``name``, with the nearest of the ``known`` ones."""
    return UnknownNameError(f"unknown {kind} '{name}'{nearest(name=name, known=known)}")


def nearest(*, name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'? (known: ...)" for a message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{hint} (known: {', '.join(names)})"
