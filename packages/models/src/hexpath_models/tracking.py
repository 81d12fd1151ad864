"""Weights & Biases around a training run, when it is installed and wanted."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import write_atomic


@contextmanager
def tracked(config: dict[str, Any], *, work: Path) -> Iterator[Any]:
    """Open a run, or None where there is none to be; offline unless WANDB_API_KEY is set.

    Files go to WANDB_DIR (default: the work folder), the group is WANDB_RUN_GROUP, the job type `train`.
    Does nothing without the `wandb` extra or with WANDB_MODE=disabled.
    """
    if os.environ.get("WANDB_MODE") == "disabled" or importlib.util.find_spec("wandb") is None:
        yield None
        return
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "hexpath"),
        group=os.environ.get("WANDB_RUN_GROUP"),
        job_type="train",
        name=f"train {config['model']}",
        dir=os.environ.get("WANDB_DIR", str(work)),
        id=_run_id(work),
        resume="allow",
        mode=_mode(),
        config=config,
    )
    failed = 1
    try:
        yield run
        failed = 0
    finally:
        run.finish(exit_code=failed)


@contextmanager
def tracked_by_ultralytics(config: dict[str, Any], *, work: Path) -> Iterator[None]:
    """The same with Ultralytics' own integration logging into the run."""
    from ultralytics.utils import SETTINGS

    with tracked(config, work=work) as run:
        SETTINGS["wandb"] = run is not None
        try:
            yield
        finally:
            SETTINGS["wandb"] = False


def _mode() -> Any:
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def _run_id(work: Path) -> str:
    """Return the id of this work folder's run, so that a resumed training goes on in the same curves."""
    file = work / "wandb.json"
    if file.is_file():
        return str(json.loads(file.read_text())["id"])
    name = secrets.token_hex(4)
    write_atomic(file, json.dumps({"id": name}))
    return name
