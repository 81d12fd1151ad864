"""Finding the same picture twice: by content hash exactly, by difference hash nearly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEAR_DISTANCE = 3  # of 64 bits; unrelated photographs differ in about 32
_MIN_CONTRAST = 4  # grey levels; hashes of blank pictures say nothing
_BLOCK = 256
_APART = 65  # more than any distance of 64 bits


@dataclass(frozen=True, kw_only=True)
class Print:
    """What identifies one image's content.

    digest: SHA-256 of the file. difference: 64-bit dHash, or None for a picture without contrast.
    """

    path: Path
    split: str
    digest: bytes
    difference: int | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images with the same or nearly the same content; `distance` in differing bits, 0 when exact."""

    first: Print
    second: Print
    distance: int
    exact: bool


def difference_hash(image: Image.Image) -> int | None:
    """Return the 64-bit difference hash (dHash): is each cell of an 8 by 8 grid darker than its right one?

    Raises:
        OSError: the image cannot be decoded.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    if int(small.max()) - int(small.min()) < _MIN_CONTRAST:
        return None
    bits = (small[:, :-1] < small[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def exact_pairs(prints: Sequence[Print]) -> Iterator[Pair]:
    """Yield each image whose file is byte for byte an earlier one's, with that earlier one."""
    groups: dict[bytes, list[Print]] = defaultdict(list)
    for one in prints:
        groups[one.digest].append(one)
    for group in groups.values():
        for other in group[1:]:
            first = next((p for p in group if p.split != other.split), group[0])
            yield Pair(first=first, second=other, distance=0, exact=True)


def near_pairs(prints: Sequence[Print], *, distance: int = NEAR_DISTANCE) -> Iterator[Pair]:
    """Yield each image with its nearest of an earlier split, when at most `distance` bits differ.

    Exact duplicates are left to `exact_pairs`. One pair an image: frames of a video resemble thousands.
    """
    known = [one for one in prints if one.difference is not None]
    if not known:
        return
    hashes = np.array([one.difference for one in known], dtype=np.uint64)
    splits = _numbered([one.split for one in known])
    digests = _numbered([one.digest for one in known])
    for start in range(0, len(known), _BLOCK):
        block = slice(start, start + _BLOCK)
        bits = np.bitwise_count(hashes[block, None] ^ hashes[None, :])
        comparable = (splits[None, :] < splits[block, None]) & (digests[None, :] != digests[block, None])
        bits[~comparable] = _APART
        nearest = bits.argmin(axis=1)
        for row in np.flatnonzero(bits.min(axis=1) <= distance):
            first, second = known[int(nearest[row])], known[start + int(row)]
            yield Pair(first=first, second=second, distance=int(bits[row, nearest[row]]), exact=False)


def _numbered(values: Sequence[str | bytes]) -> NDArray[np.int64]:
    numbers: dict[str | bytes, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
