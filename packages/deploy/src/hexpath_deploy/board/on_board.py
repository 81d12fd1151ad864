"""Runs on the board, alone: `python3 on_board.py` in a folder with request.json. It needs numpy, onnxruntime
and Qualcomm's provider (onnxruntime-qnn), and nothing of hexpath. It writes out/result.json.

request.json: {"model": "model_ctx.onnx", "options": {provider option: text}, "warm_up": 10,
"iterations": 100, "duration_s": null} to time the model on zeros, or {..., "keys": ["1", ...]} to run
in/<key>.npy to out/<key>.npz.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort

PROVIDER = "QNNExecutionProvider"


def open_session(request: dict[str, Any]) -> Any:
    """Open a session whose every node runs on the NPU: the plug-in provider, else the built-in one."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options = dict(request["options"])
    try:
        import onnxruntime_qnn
    except ImportError:
        options.setdefault("backend_path", "libQnnHtp.so")
        return ort.InferenceSession(request["model"], settings, providers=[(PROVIDER, options)])
    options.setdefault("backend_path", onnxruntime_qnn.get_qnn_htp_path())
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [entry for entry in ort.get_ep_devices() if entry.ep_name == PROVIDER][:1]
    settings.add_provider_for_devices(devices, options)
    return ort.InferenceSession(request["model"], settings)


def zeros(session: Any) -> dict[str, Any]:
    """Return an input for each of the session's inputs."""
    kinds = {"tensor(float)": "float32", "tensor(float16)": "float16"}
    return {
        value.name: np.zeros(value.shape, kinds.get(value.type, value.type[len("tensor(") : -1]))
        for value in session.get_inputs()
    }


def measure(session: Any, request: dict[str, Any]) -> list[float]:
    """Return the milliseconds of each run after the warm-up."""
    feed = zeros(session)
    times: list[float] = []
    for _ in range(request["warm_up"]):
        session.run(None, feed)
    began = time.perf_counter()
    while more(request, done=len(times), seconds=time.perf_counter() - began):
        since = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - since))
    return times


def more(request: dict[str, Any], *, done: int, seconds: float) -> bool:
    """Whether another run is to be timed."""
    if request.get("duration_s"):
        return bool(done == 0 or seconds < request["duration_s"])
    return bool(done < request["iterations"])


def infer(session: Any, request: dict[str, Any]) -> None:
    """Run each key's input."""
    names = [value.name for value in session.get_outputs()]
    feed = session.get_inputs()[0].name
    for key in request["keys"]:
        outputs = session.run(names, {feed: np.load(f"in/{key}.npy")})
        np.savez(f"out/.{key}.npz", **{name: each for name, each in zip(names, outputs)})  # noqa: B905, C416 - Python 3.8
        os.replace(f"out/.{key}.npz", f"out/{key}.npz")


def versions() -> dict[str, str]:
    """Return what ran."""
    found = {"onnxruntime": ort.__version__, "python": platform.python_version()}
    try:
        from importlib import metadata

        found["onnxruntime-qnn"] = metadata.version("onnxruntime-qnn")
        from onnxruntime_qnn import build_and_package_info

        found["qairt"] = str(build_and_package_info.qnn_version)
    except (ImportError, AttributeError):
        pass
    return found


def peak_rss_mb() -> float:
    """Return the most memory that this process has held, in MB (1e6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Do what request.json asks."""
    with open("request.json") as file:
        request = json.load(file)
    since = time.perf_counter()
    session = open_session(request)
    result = {"load_ms": 1000 * (time.perf_counter() - since), "versions": versions()}
    if "keys" in request:
        infer(session, request)
    else:
        result["times_ms"] = measure(session, request)
    result["peak_rss_mb"] = peak_rss_mb()
    with open("out/result.partial", "w") as file:
        json.dump(result, file)
    os.replace("out/result.partial", "out/result.json")
    sys.stdout.flush()
    os._exit(0)  # Qualcomm's libraries may crash while they are unloaded, after all is done


if __name__ == "__main__":
    main()
