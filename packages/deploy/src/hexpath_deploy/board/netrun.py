"""Runner `qnn-net-run` of a QAIRT SDK on the board: the context binary, raw inputs, raw outputs, a profile.

Options and file formats are those of QAIRT 2.x; the functions that build command lines and files are pure.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from hexpath_deploy.board import viewer
from hexpath_deploy.board.address import remote_line
from hexpath_deploy.board.measurement import Measurement
from hexpath_deploy.board.place import Place
from hexpath_deploy.board.probe import NET_RUN, VIEWER, Facts, need_tool
from hexpath_deploy.board.process import run
from hexpath_deploy.board.raw import read_results, tensors_of
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.errors import BoardToolMissingError
from hexpath_deploy.files import write_atomic
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.reference.hexpath_reference import Array

CONTEXT, LIST, CONFIG, HTP, OUTPUT, CSV = (
    "context.bin",
    "input_list.txt",
    "backend.json",
    "htp.json",
    "output",
    "profile.csv",
)
ADVICE = "install a QAIRT SDK on it and name it with --board-sdk, or use --runner onnxruntime-qnn"
DSP = ("/vendor/dsp/cdsp", "/vendor/lib/rfsa/adsp", "/system/lib/rfsa/adsp", "/usr/lib/rfsa/adsp", "/dsp")
RPC_LATENCY_US = 100
TIMED = "graph execution as qnn-net-run times it: with the call to the NPU, without files"


def available(facts: Facts) -> bool:
    """Whether the board has it."""
    return facts.tool(NET_RUN) is not None


def command(tool: str, *, settings: BoardSettings | None, library: str = "libQnnHtp.so") -> list[str]:
    """Return the command line, relative to the run's folder; without `settings` it runs each input once."""
    words = [tool, "--backend", library, "--retrieve_context", CONTEXT, "--input_list", LIST]
    words += ["--output_dir", OUTPUT, "--config_file", CONFIG]
    words += ["--use_native_input_files", "--use_native_output_files", "--log_level", "error"]
    if settings is None:
        return words
    words += ["--profiling_level", settings.profiling, "--keep_num_outputs", "1"]
    if settings.duration_s is not None:
        return [*words, "--duration", f"{settings.duration_s:g}"]
    return [*words, "--num_inferences", str(settings.warm_up + settings.iterations)]


def environment(tool: str, *, hexagon: str | None) -> dict[str, str]:
    """Return where the tool finds its libraries: beside itself, or in the SDK that it lies in.

    A tool of the system (/usr/bin) needs nothing but the folders of the NPU's own libraries.
    """
    folder = PurePosixPath(tool).parent
    if folder.parent.name == "bin":
        sdk = folder.parent.parent
        libraries, skeleton = (
            [str(sdk / "lib" / folder.name)],
            f"{sdk}/lib/hexagon-{hexagon or 'v73'}/unsigned",
        )
    elif folder.name == "bin":
        libraries, skeleton = [], f"{folder.parent}/lib/dsp/cdsp"
    else:
        libraries, skeleton = [str(folder)], str(folder)
    found = {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}
    return found | {"ADSP_LIBRARY_PATH": ";".join([skeleton, *libraries, *DSP])}


def backend_config() -> dict[str, object]:
    """Return what `--config_file` names: the library that reads the HTP configuration, and that file."""
    return {
        "backend_extensions": {
            "shared_library_path": "libQnnHtpNetRunExtensions.so",
            "config_file_path": HTP,
        }
    }


def htp_config(*, performance: str, hexagon: str | None) -> dict[str, object]:
    """Return the HTP configuration: the performance mode, and short waits for the call to the NPU."""
    core = {"core_id": 0, "perf_profile": performance, "rpc_control_latency": RPC_LATENCY_US}
    return {"devices": [{**({"dsp_arch": hexagon} if hexagon else {}), "cores": [core]}]}


def input_list(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the input list: a line an inference, `name:=file` for each input."""
    return "".join(" ".join(f"{name}:={path}" for name, path in row.items()) + "\n" for row in rows)


def measure(
    place: Place, artifact: Artifact, *, settings: BoardSettings, hexagon: str | None, out: Path
) -> Measurement:
    """Time the artifact; the raw profile stays in `out`.

    Raises:
        BoardToolMissingError, BoardRunError, BoardTimeoutError, BoardSpaceError, BoardUnreachableError.
    """
    tool = need_tool(place.link, place.facts, NET_RUN, advice=ADVICE)
    reader = find_viewer(place)
    zeros = {name: np.zeros(shape, dtype) for name, (shape, dtype) in tensors_of(artifact).inputs.items()}
    links = {CONTEXT: place.push(artifact.folder / artifact.card["binary"])}
    with place.run_folder(f"{key_of(artifact)}-profile", links=links) as folder:
        send(place, folder=folder, inputs=[zeros], settings=settings, hexagon=hexagon)
        line = command(tool, settings=settings)
        execute(place, line, folder=folder, tool=tool, hexagon=hexagon, limit_s=settings.limit_s)
        if reader is not None:
            view(place, reader, folder=folder, hexagon=hexagon, tool=tool)
        place.pull(f"{folder}/{OUTPUT}", out)
    text = read_profile(out, place=place)
    return measured(text, settings=settings, what=f"{out / CSV}", tools=version_of(text))


def measured(text: str, *, settings: BoardSettings, what: str, tools: Mapping[str, str]) -> Measurement:
    """Return what a profile says of the inferences after the warm-up."""
    found = viewer.read_csv(text, what=what)
    skip = min(settings.warm_up, len(found.graph_us) - 1) if found.graph_us else 0
    notes = () if skip == settings.warm_up else (f"only {skip} runs of warm-up: the board was slow",)
    return Measurement(
        times_ms=tuple(each / 1000 for each in found.graph_us[skip:]),
        warm_up=skip,
        timed=TIMED,
        tools=tools,
        accelerator_ms=found.accelerator_ms(skip=skip),
        accelerator_cycles=found.accelerator_cycles(skip=skip),
        op_cycles=found.mean_op_cycles(skip=skip),
        notes=notes,
    )


def infer(
    place: Place,
    artifact: Artifact,
    *,
    settings: BoardSettings,
    hexagon: str | None,
    images: Mapping[str, Array],
    out: Path,
) -> None:
    """Run the images, as the graph takes them, by key; writes `out/<key>.npz` with the outputs by name."""
    tool = need_tool(place.link, place.facts, NET_RUN, advice=ADVICE)
    tensors = tensors_of(artifact)
    name = next(iter(tensors.inputs))
    links = {CONTEXT: place.push(artifact.folder / artifact.card["binary"])}
    inputs = [{name: image} for image in images.values()]
    with (
        place.run_folder(f"{key_of(artifact)}-infer", links=links) as folder,
        tempfile.TemporaryDirectory() as scratch,
    ):
        send(place, folder=folder, inputs=inputs, settings=settings, hexagon=hexagon)
        line = command(tool, settings=None)
        execute(place, line, folder=folder, tool=tool, hexagon=hexagon, limit_s=settings.limit_s)
        place.pull(f"{folder}/{OUTPUT}", Path(scratch) / OUTPUT)
        read_results(Path(scratch) / OUTPUT, keys=list(images), tensors=tensors, out=out)


def send(
    place: Place,
    *,
    folder: str,
    inputs: Sequence[Mapping[str, Array]],
    settings: BoardSettings,
    hexagon: str | None,
) -> None:
    """Bring the inputs and the configuration into the run's folder."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        rows = [{name: f"{index}-{name}.raw" for name in row} for index, row in enumerate(inputs)]
        for names, row in zip(rows, inputs, strict=True):
            for name, path in names.items():
                np.ascontiguousarray(row[name]).tofile(made / path)
        write_atomic(made / LIST, input_list(rows))
        write_atomic(made / CONFIG, json.dumps(backend_config()))
        write_atomic(made / HTP, json.dumps(htp_config(performance=settings.performance, hexagon=hexagon)))
        place.link.push_folder(made, folder)


def execute(
    place: Place, argv: Sequence[str], *, folder: str, tool: str, hexagon: str | None, limit_s: float
) -> None:
    """Run the tool in the run's folder, with a time limit on the board too where it has `timeout`."""
    env = environment(tool, hexagon=hexagon)
    bounded = limit_s if place.facts.tool("timeout") else None
    line = remote_line(argv, folder=folder, env=env, timeout_s=bounded)
    place.execute(line, limit_s=limit_s, what=NET_RUN)


def find_viewer(place: Place) -> str | None:
    """Return the viewer on the board, or None when this machine has it.

    Raises:
        BoardToolMissingError: neither has it.
    """
    on_board = place.facts.tool(VIEWER)
    if on_board is None and shutil.which(VIEWER) is None:
        raise BoardToolMissingError(
            f"neither {place.link.name} nor this machine has {VIEWER}, which reads the profile: put the "
            "QAIRT SDK's bin folder on PATH, or use --runner onnxruntime-qnn"
        )
    return on_board


def view(place: Place, reader: str, *, folder: str, hexagon: str | None, tool: str) -> None:
    """Let the board's viewer write the CSV."""
    argv = [reader, "--input_log", f"{OUTPUT}/qnn-profiling-data_0.log", "--output", f"{OUTPUT}/{CSV}"]
    line = remote_line(argv, folder=folder, env=environment(tool, hexagon=hexagon))
    place.execute(line, limit_s=120, what=VIEWER)


def read_profile(out: Path, *, place: Place) -> str:
    """Return the CSV's text, made here when the board did not make it."""
    if not (out / CSV).exists():
        argv = [VIEWER, "--input_log", str(out / "qnn-profiling-data_0.log"), "--output", str(out / CSV)]
        run(argv, limit_s=120, what=VIEWER)
    return (out / CSV).read_text(encoding="utf-8", errors="replace") if (out / CSV).exists() else ""


def version_of(text: str) -> dict[str, str]:
    """Return the version of the SDK, where the lines before the CSV's header name it."""
    match = re.search(r"\bv?(\d+\.\d+\.\d+(?:\.\d{6,})?)", text.partition(viewer.COLUMNS[0])[0])
    return {"qairt-on-board": match[1]} if match else {}


def key_of(artifact: Artifact) -> str:
    """Return a name for runs of this artifact."""
    return str(artifact.card["binary_sha256"])[:16]
