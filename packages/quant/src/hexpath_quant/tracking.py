"""Training curves in Weights & Biases, when it is installed and wanted."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Tracker:
    """Logs one dict an epoch; does nothing without wandb or with WANDB_MODE=disabled.

    Offline unless a key is there. The group is WANDB_RUN_GROUP.
    """

    def __init__(self, *, config: Mapping[str, Any], folder: Path, name: str, job_type: str = "qat") -> None:
        self._run: Any = None
        if os.environ.get("WANDB_MODE") == "disabled" or importlib.util.find_spec("wandb") is None:
            return
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hexpath"),
            group=os.environ.get("WANDB_RUN_GROUP"),
            job_type=job_type,
            name=name,
            dir=str(folder),
            config=dict(config),
            mode=_mode(),
            settings=wandb.Settings(silent=True),
        )

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """Log the figures of an epoch."""
        if self._run is not None:
            self._run.log(dict(figures), step=step)

    def table(self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def finish(self) -> None:
        """Close the run."""
        if self._run is not None:
            self._run.finish()


def _mode() -> Any:
    chosen = os.environ.get("WANDB_MODE")
    return chosen or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
