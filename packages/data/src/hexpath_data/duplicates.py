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
    """Yield pairs across splits whose difference hashes differ in at most `distance` bits, not exact ones."""
    known = [one for one in prints if one.difference is not None]
    if not known:
        return
    hashes = np.array([one.difference for one in known], dtype=np.uint64)
    splits = np.unique([one.split for one in known], return_inverse=True)[1]
    for start in range(0, len(known), _BLOCK):
        block = slice(start, start + _BLOCK)
        bits = np.bitwise_count(hashes[block, None] ^ hashes[None, :])
        close = (bits <= distance) & (splits[block, None] != splits[None, :])
        yield from _pairs(known, start=start, close=close, bits=bits)


def _pairs(
    known: Sequence[Print], *, start: int, close: NDArray[np.bool_], bits: NDArray[np.uint8]
) -> Iterator[Pair]:
    for row, column in np.argwhere(close):
        first, second = known[start + int(row)], known[int(column)]
        if start + row < column and first.digest != second.digest:
            yield Pair(first=first, second=second, distance=int(bits[row, column]), exact=False)
