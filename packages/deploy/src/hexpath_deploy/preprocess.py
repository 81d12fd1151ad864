"""Reading image files; what happens to the pixels then stands in `reference/hexpath_reference.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hexpath_deploy.errors import DatasetError
from hexpath_deploy.reference.hexpath_reference import Pixels


def read_image(path: Path) -> Pixels:
    """Read an image upright (EXIF orientation applied) as uint8 RGB (height, width, 3).

    Raises:
        DatasetError: no such file, empty, or no image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # keep the high byte, as Ultralytics does
                high = (np.asarray(upright) >> 8).astype(np.uint8)
                return np.repeat(high[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except FileNotFoundError:
        raise DatasetError(f"no such image {path}: the dataset names it; check its root") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DatasetError(f"image {path} cannot be read ({error}): replace it or take it out") from error
