"""Does the exported file compute what the simulation computed?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hexpath_quant.errors import AgreementError

# Single roundings that fall the other way add up: 27 dB were seen in a sound export (YOLO11n at w8a8, boxes
# decoded in the graph), 33 dB and more at its raw heads. In a network that 8 bits do not suit they add up to
# all that quantization does to it: 19.3 dB in a DDRNet whose simulation is 15.0 dB from float. Exchanged or
# wrongly scaled tensors fall below 10.
MIN_SQNR_DB, LEAST_SQNR_DB = 20.0, 10.0

Arrays = Mapping[str, NDArray[np.float32]]


def sqnr_db(*, reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return 10 log10(signal power / power of the difference); equal arrays give 300."""
    noise = float(np.square(reference - found, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    return 300.0 if noise == 0 else 10 * float(np.log10(max(signal, 1e-30) / noise))


def run_onnx(path: Path, *, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Run float32 (N, 3, H, W) one by one on the CPU, without graph optimizations; stack the outputs.

    onnxruntime's optimizations change the numerics of QDQ graphs.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    source = session.get_inputs()[0].name
    rows = [session.run(names, {source: image[None]}) for image in images]
    return {name: np.concatenate([row[index] for row in rows]) for index, name in enumerate(names)}


def check_agreement(
    path: Path, *, recorded: Arrays, unrounded: Arrays | None = None, minimum_db: float = MIN_SQNR_DB
) -> dict[str, float]:
    """Return the SQNR in dB of each output of the file against the recorded simulation.

    Args:
        path: ONNX file.
        recorded: ``images`` and one array per output, as in recorded.npz.
        unrounded: the same of the simulated network without its quantizers. Where these differ by more than
            ``minimum_db`` allows, the file may differ from the simulation as much, to LEAST_SQNR_DB.
        minimum_db: least SQNR; see MIN_SQNR_DB.

    Raises:
        AgreementError: an output is below its limit or missing.
    """
    found = run_onnx(path, images=recorded["images"])
    names = [name for name in recorded if name != "images"]
    if not names:
        raise AgreementError(f"nothing is recorded to compare {path.name} with")
    figures: dict[str, float] = {}
    for name in names:
        if name not in found:
            raise AgreementError(f"{path.name} has no output '{name}' (it has {', '.join(found)})")
        figures[name] = sqnr_db(reference=recorded[name], found=found[name])
        limit = minimum_db
        if unrounded is not None:
            quantization = sqnr_db(reference=unrounded[name], found=recorded[name])
            limit = min(limit, max(quantization, LEAST_SQNR_DB))
        if not figures[name] >= limit:
            raise AgreementError(
                f"output '{name}' of {path.name} agrees with the simulation to {figures[name]:.1f} dB only,"
                f" at least {limit:.0f} dB is wanted; the export changed the numerics"
            )
    return figures
