"""The process that loads Qualcomm's libraries, which can crash it: `python -m hexpath_deploy.hexagon.worker`.

It reads request.json in its working directory, does one job, and writes result.json. Every
path that reaches Qualcomm's libraries is relative to that directory, so that odd
characters in a user's paths never do.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from hexpath_deploy.hexagon.toolchain import library
from hexpath_deploy.ort import ort_errors

PROVIDER = "QNNExecutionProvider"
PR_SET_PDEATHSIG = 1
VERBOSE, WARNING = 0, 2
PROFILING = {"profiling_level": "basic", "profiling_file_path": "profile.csv"}


def compile_context(request: Mapping[str, Any]) -> None:
    """Compile model.onnx to context.onnx with its binary beside it, and dump the QNN graph into graph/.

    Where the compiler gives an estimate, it stands in profile.csv; the binary is the same with and without.
    """
    Path("graph").mkdir()
    entries = {"ep.context_enable": "1", "ep.context_file_path": "context.onnx", "ep.context_embed_mode": "0"}
    dump = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": "graph"}
    open_session("model.onnx", request=request, entries=entries, options={**dump, **PROFILING})


def compile_dlc(request: Mapping[str, Any]) -> None:
    """Write model.onnx as a DLC into dlc/."""
    Path("dlc").mkdir()
    dump = {"dump_qnn_ir_dlc": "1", "dump_qnn_ir_dlc_dir": "dlc", "qnn_ir_backend_path": library("QnnIr")}
    open_session("model.onnx", request=request, options=dump)


def estimate(request: Mapping[str, Any]) -> None:
    """Compile model.onnx and let the compiler write its estimate to profile.csv."""
    open_session("model.onnx", request=request, options=PROFILING)


def explain(request: Mapping[str, Any]) -> None:
    """Try to compile model.onnx with a log that tells why an operator is refused."""
    open_session("model.onnx", request=request, severity=VERBOSE)


def cost(request: Mapping[str, Any]) -> None:
    """Compile model.onnx once for both its estimate, profile.csv, and its context binary."""
    entries = {"ep.context_enable": "1", "ep.context_file_path": "context.onnx", "ep.context_embed_mode": "0"}
    profiling = {"profiling_level": "basic", "profiling_file_path": "profile.csv"}
    open_session("model.onnx", request=request, entries=entries, options=profiling)


def emulate(request: Mapping[str, Any]) -> None:
    """Run a session on each of the request's inputs: in/<key>.npz to out/<key>.npz, arrays by name."""
    session = open_session(request["session"], request=request)
    names = [value.name for value in session.get_outputs()]
    kinds = {value.name: kind_of(value.type) for value in session.get_inputs()}
    folder = Path(request["folder"])
    for key in request["keys"]:
        source, partial = folder / "in" / f"{key}.npz", folder / "out" / f".{key}.npz"
        with np.load(source) as stored:
            feed = {name: stored[name].astype(kind) for name, kind in kinds.items()}
        outputs = session.run(names, feed)
        with partial.open("wb") as file:
            np.savez(file, **dict(zip(names, outputs, strict=True)))
        partial.replace(folder / "out" / f"{key}.npz")
        source.unlink()


def kind_of(type_name: str) -> str:
    """Return numpy's name of a session's type such as `tensor(float)`."""
    inner = type_name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)


JOBS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "context": compile_context,
    "dlc": compile_dlc,
    "estimate": estimate,
    "explain": explain,
    "cost": cost,
    "emulate": emulate,
}


def open_session(
    path: str,
    *,
    request: Mapping[str, Any],
    entries: Mapping[str, str] = {},
    options: Mapping[str, str] = {},
    severity: int = WARNING,
) -> ort.InferenceSession:
    """Open a session whose every node runs on the (emulated) NPU."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = severity
    for key, value in {"session.disable_cpu_ep_fallback": "1", **entries}.items():
        settings.add_session_config_entry(key, value)
    common = {"backend_path": library("QnnHtp"), **request["options"]}
    settings.add_provider_for_devices(device(), {**common, **options})
    return ort.InferenceSession(path, sess_options=settings)


def device() -> list[Any]:
    """Register Qualcomm's provider and return its first device, which is all it takes."""
    ort.register_execution_provider_library(PROVIDER, library("onnxruntime_providers_qnn"))
    return [entry for entry in ort.get_ep_devices() if entry.ep_name == PROVIDER][:1]


def main() -> int:
    """Do the job of request.json."""
    if sys.platform == "linux":  # never outlive the command that started this
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(Path("request.json").read_text(encoding="utf-8"))
    result: dict[str, str] = {}
    refusals: tuple[type[Exception], ...] = (*ort_errors(), RuntimeError, OSError, ValueError)
    try:
        JOBS[request["job"]](request)
    except refusals as error:
        result["error"] = str(error)
    Path("result.json").write_text(json.dumps(result), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # Qualcomm's libraries may crash while they are unloaded, after all is done


if __name__ == "__main__":
    main()
