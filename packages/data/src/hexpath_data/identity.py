"""A content fingerprint that does not depend on where a dataset lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from hexpath_data.dataset import Dataset, label_path


def sha256_file(path: Path) -> bytes:
    """Return the SHA-256 digest of a file's bytes; of no bytes when there is no such file."""
    if not path.is_file():
        return hashlib.sha256().digest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def fingerprint(dataset: Dataset, *, image_digests: Mapping[Path, bytes] | None = None) -> str:
    """Return `sha256:` and 64 hex digits over a dataset's names, image bytes and label bytes.

    Hashed in this order: the class names as JSON, a newline; then for each split in the order train,
    val, test and each image sorted by its path relative to the dataset's root: the split's name, a
    tab, that path with forward slashes, a newline, the image's SHA-256 (32 bytes), the label file's
    SHA-256 (of no bytes where there is none). `image_digests` saves reading images again.
    """
    total = hashlib.sha256(json.dumps(list(dataset.names)).encode() + b"\n")
    known = image_digests or {}
    for split in dataset.splits.values():
        for name, image in sorted((dataset.relative(image), image) for image in split.images):
            total.update(f"{split.name}\t{name}\n".encode())
            total.update(known.get(image) or sha256_file(image))
            total.update(sha256_file(label_path(image)))
    return f"sha256:{total.hexdigest()}"
