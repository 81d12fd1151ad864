"""Is Qualcomm's toolchain here, and which versions are?"""

from __future__ import annotations

import platform
import sys
from importlib import metadata, util
from pathlib import Path

from hexpath_deploy.errors import ToolchainMissingError

GLIBC = (2, 35)
WITHOUT = (
    "Without it evaluate --backend ort, record, report, log and targets work; "
    "compile, profile, agree and evaluate --backend emulator do not"
)


def require() -> None:
    """Check that the Hexagon toolchain can run here.

    Raises:
        ToolchainMissingError: the platform has none, or it is not installed; says what works all the same.
    """
    problem = platform_problem()
    if problem is not None:
        raise ToolchainMissingError(f"{problem}. {WITHOUT}")
    if util.find_spec("onnxruntime_qnn") is None:
        raise ToolchainMissingError(
            f"onnxruntime-qnn is not installed: pip install 'onnxruntime-qnn>=2.7.0'. {WITHOUT}"
        )


def platform_problem() -> str | None:
    """Return why Qualcomm's host libraries cannot run on this machine, or None."""
    need = "Qualcomm's Hexagon compiler and emulator need x86-64 Linux with glibc 2.35 or newer"
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"{need}; this is {platform.system()} on {platform.machine()}"
    name, version = platform.libc_ver()
    if name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= GLIBC:
        return None
    return f"{need}; this is {name or 'another C library'} {version}".rstrip()


def versions() -> dict[str, str]:
    """Return the versions of what made an artifact, as far as they are installed."""
    found = {}
    for name in ("onnxruntime", "onnxruntime-qnn", "hexpath-deploy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "onnxruntime-qnn" in found and util.find_spec("onnxruntime_qnn") is not None:
        from onnxruntime_qnn import build_and_package_info

        found["qairt"] = str(getattr(build_and_package_info, "qnn_version", "unknown"))
    return found


def library(name: str) -> str:
    """Return the path of a library of the wheel, such as `QnnHtp`."""
    import onnxruntime_qnn

    return str(Path(onnxruntime_qnn.get_library_path()).with_name(f"lib{name}.so"))
