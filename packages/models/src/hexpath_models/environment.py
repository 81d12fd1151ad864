"""Ultralytics with its hands in its pockets: no network, no installs, no files in the user's home.

Ultralytics decides at import whether it is online and where its settings live, so `offline()` must run before
the first `import ultralytics` of the process; every function here that needs ultralytics calls it first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_KEPT_BY_ULTRALYTICS = "Ultralytics"  # the folder name that it appends to YOLO_CONFIG_DIR
_OURS = "HEXPATH_MODELS_CONFIG"  # marks a YOLO_CONFIG_DIR that this package chose


def offline(work: Path | None = None, *, online: bool = False) -> Path:
    """Set Ultralytics' environment and return its settings folder.

    work: where its settings shall live; without one, a temporary folder that goes with the process.
    online: lifts the ban on the network for this process; only `--pretrained` asks for it.
    Changes nothing once ultralytics is imported, be it by an earlier call or by the caller's own code.
    """
    if "ultralytics" in sys.modules:
        return _settings_folder(None)
    folder = _settings_folder(work)
    os.environ.update(
        YOLO_CONFIG_DIR=str(folder),
        YOLO_OFFLINE="false" if online else "true",
        YOLO_AUTOINSTALL="false",
        YOLO_VERBOSE="false",
        ULTRALYTICS_SAFE_LOAD="true",
        WANDB_SILENT="true",
    )
    # Ultralytics would leave a core idle, which on a two-core machine is half of it.
    os.environ.setdefault("OMP_NUM_THREADS", str(_cores()))
    os.environ[_OURS] = "1"
    _quiet_settings()
    return folder


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settings_folder(work: Path | None) -> Path:
    if work is not None:
        folder = work.resolve() / "settings"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if _OURS in os.environ and Path(os.environ["YOLO_CONFIG_DIR"]).is_dir():
        return Path(os.environ["YOLO_CONFIG_DIR"])
    folder = Path(tempfile.mkdtemp(prefix="hexpath-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _quiet_settings() -> None:
    """Import ultralytics' settings and turn off what reports home or logs elsewhere."""
    from ultralytics.utils import SETTINGS

    elsewhere = (
        "sync",
        "clearml",
        "comet",
        "dvc",
        "mlflow",
        "neptune",
        "raytune",
        "tensorboard",
        "wandb",
        "hub",
    )
    changed = {key: False for key in elsewhere if SETTINGS.get(key)}
    if changed:
        SETTINGS.update(changed)
