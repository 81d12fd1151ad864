"""Published weights: found where a person put them, fetched only when asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .errors import MissingWeightsError
from .registry import ModelCard

_SOURCE = "https://github.com/ultralytics/assets/releases"


def find_weights(card: ModelCard, *, work: Path) -> Path:
    """Return the .pt file of a model's published weights.

    Looks into $HEXPATH_ASSETS, assets/ and the work folder, then lets Ultralytics download it: only
    after `offline(work, online=True)`. Raises MissingWeightsError with what to do.
    """
    for folder in _folders(work):
        if (folder / card.weights_file).is_file():
            return folder / card.weights_file
    return _download(card, work / "assets")


def _folders(work: Path) -> list[Path]:
    chosen = os.environ.get("HEXPATH_ASSETS")
    return [*([Path(chosen)] if chosen else []), Path("assets"), work / "assets"]


def _download(card: ModelCard, folder: Path) -> Path:
    from ultralytics.utils import ONLINE
    from ultralytics.utils.downloads import attempt_download_asset

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / card.weights_file
    try:
        found = Path(attempt_download_asset(str(target))) if ONLINE else target
    except (OSError, RuntimeError) as error:
        raise MissingWeightsError(_advice(card)) from error
    if not found.is_file():
        raise MissingWeightsError(_advice(card))
    if found != target:
        shutil.move(found, target)
    return target


def _advice(card: ModelCard) -> str:
    return (
        f"{card.weights_file} is not here and could not be downloaded; get it from {_SOURCE} and put it "
        f"into assets/ or the folder named by HEXPATH_ASSETS (licence {card.licence}), "
        "or train without --pretrained"
    )
