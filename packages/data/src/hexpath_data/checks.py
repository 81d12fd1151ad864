"""Everything that can be wrong with a dataset, found before the long work starts."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hexpath_data.dataset import Dataset, Split, label_path, list_images, read_tolerantly
from hexpath_data.duplicates import Print, difference_hash, exact_pairs, near_pairs
from hexpath_data.errors import DataError, ImageError, LabelFormatError, LeakError, OrphanLabelError
from hexpath_data.identity import fingerprint
from hexpath_data.progress import progress
from hexpath_data.yolo import VALUE_TOLERANCE, Box, parse_labels, read_label_text

_THREADS = 4
_ORIENTATION, _QUARTER_TURNS = 0x0112, range(5, 9)  # EXIF: the picture is stored lying on its side


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One finding: an error when `error` is set, else a warning; `line` 0 when it is of the whole file."""

    kind: str
    path: Path
    message: str
    line: int = 0
    error: type[DataError] | None = None

    def __str__(self) -> str:
        """Return `path:line: error: message`, as compilers do."""
        where = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{where}: {'error' if self.error else 'warning'}: {self.kind}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One image that was read: size in pixels, content prints, and its good labels."""

    path: Path
    width: int
    height: int
    boxes: tuple[Box, ...]
    identity: Print


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a check found, and what it read on the way."""

    dataset: Dataset
    problems: tuple[Problem, ...]
    images: dict[str, tuple[Checked, ...]]
    fingerprint: str

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Return the problems that stop a run."""
        return tuple(problem for problem in self.problems if problem.error)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Return the problems that do not."""
        return tuple(problem for problem in self.problems if not problem.error)

    def require_ok(self) -> None:
        """Raise the first error's kind, naming it and how many there are."""
        if not self.errors:
            return
        first = self.errors[0]
        where = f"{first.path}:{first.line}" if first.line else str(first.path)
        others = f" (the first of {len(self.errors)} errors)" if len(self.errors) > 1 else ""
        advice = f"; `hexpath-data check {self.dataset.yaml_path}` lists them"
        assert first.error is not None
        raise first.error(f"{where}: {first.message}{others}{advice}")


def check(data_yaml: Path) -> Report:
    """Read a whole dataset, decode every image, and report every problem.

    Raises:
        DataYamlMissingError, DataYamlError: there is nothing to check.
    """
    dataset, broken = read_tolerantly(Path(data_yaml))
    problems = [_problem(error, path=dataset.yaml_path) for error in broken]
    images: dict[str, tuple[Checked, ...]] = {}
    for split in dataset.splits.values():
        images[split.name] = tuple(_read_split(split, dataset=dataset, problems=problems))
    problems += _orphans(dataset)
    problems += _unused_classes(dataset, images=images)
    prints = [one.identity for group in images.values() for one in group]
    problems += [*_same(prints), *_similar(prints)]
    digests = {one.path: one.digest for one in prints}
    found = fingerprint(dataset, image_digests=digests)
    problems += _changed(dataset, found=found)
    return Report(dataset=dataset, problems=tuple(problems), images=images, fingerprint=found)


def _problem(error: DataError, *, path: Path, line: int = 0) -> Problem:
    message = str(error).removeprefix(f"{path}: ")
    return Problem(kind=error.kind, path=path, line=line, message=message, error=type(error))


def _read_split(split: Split, *, dataset: Dataset, problems: list[Problem]) -> Iterator[Checked]:
    def read(image: Path) -> tuple[Checked | None, list[Problem]]:
        return _read_image(image, split=split.name, classes=len(dataset.names))

    with ThreadPoolExecutor(_THREADS) as pool:
        what = f"check: {split.name} images"
        for checked, found in progress(pool.map(read, split.images), total=len(split.images), what=what):
            problems += found
            if checked is not None:
                yield checked


def _read_image(image: Path, *, split: str, classes: int) -> tuple[Checked | None, list[Problem]]:
    boxes, problems = _read_boxes(image, classes=classes)
    try:
        (width, height), identity = _decode(image, split=split)
    except ImageError as error:
        return None, [_problem(error, path=image), *problems]
    return Checked(path=image, width=width, height=height, boxes=boxes, identity=identity), problems


def _decode(path: Path, *, split: str) -> tuple[tuple[int, int], Print]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}; is it listed but not there?") from error
    if not data:
        raise ImageError("the file is empty (0 bytes); copy it again or delete it with its label")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            difference = difference_hash(image)
            size = _upright_size(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).split(" <")[0]  # without the address of our buffer
        raise ImageError(f"cannot be decoded ({reason}); copy or delete it") from error
    identity = Print(path=path, split=split, digest=hashlib.sha256(data).digest(), difference=difference)
    return size, identity


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Ultralytics and OpenCV turn pictures as their EXIF data says, and labels follow what people saw
    turned = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    return (image.height, image.width) if turned else image.size


def _read_boxes(image: Path, *, classes: int) -> tuple[tuple[Box, ...], list[Problem]]:
    path = label_path(image)
    if not path.is_file():
        message = f"no label file {path.name}: counts as empty"
        return (), [Problem(kind="background", path=image, message=message)]
    try:
        text = read_label_text(path)
    except LabelFormatError as error:
        return (), [_problem(error, path=path)]
    boxes: list[Box] = []
    problems: list[Problem] = []
    for row in parse_labels(text, classes=classes):
        if row.error is not None:
            problems.append(_problem(row.error, path=path, line=row.line))
        if row.box is not None:
            boxes.append(row.box)
            problems += _overhang(row.box, path=path, line=row.line)
    return tuple(boxes), problems


def _overhang(box: Box, *, path: Path, line: int) -> Iterator[Problem]:
    if box.overhang() > VALUE_TOLERANCE:
        message = f"box reaches out of the image by {box.overhang():.2%}; it is clipped"
        yield Problem(kind="clipped", path=path, line=line, message=message)


def _orphans(dataset: Dataset) -> Iterator[Problem]:
    for images, labels in sorted(_folder_pairs(dataset)):
        stems = {image.relative_to(images).with_suffix("") for image in list_images(images)}
        for label in sorted(labels.rglob("*.txt")):
            belongs = label.relative_to(labels).with_suffix("") in stems
            if not belongs and (images != labels or _looks_like_labels(label)):
                error = OrphanLabelError("belongs to no image; delete it or bring back its image")
                yield _problem(error, path=label)


def _folder_pairs(dataset: Dataset) -> set[tuple[Path, Path]]:
    sources = [source for split in dataset.splits.values() for source in split.sources]
    folders = {source for source in sources if source.is_dir()}
    listed = (image for split in dataset.splits.values() for image in split.images)
    folders |= {image.parent for image in listed if not folders.intersection(image.parents)}
    return {(folder, label_path(folder / "any.jpg").parent) for folder in folders}


def _looks_like_labels(path: Path) -> bool:
    # beside the images lie texts of other kinds too: licences, lists of classes
    columns = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].split()
    return len(columns) >= 5 and all(column.replace(".", "", 1).isdigit() for column in columns)


def _unused_classes(dataset: Dataset, *, images: dict[str, tuple[Checked, ...]]) -> Iterator[Problem]:
    for split, group in images.items():
        counts = Counter(box.class_id for one in group for box in one.boxes)
        for class_id, name in enumerate(dataset.names):
            if not counts[class_id]:
                message = f"class {class_id} ({name}) has no instances in {split}"
                yield Problem(kind="unused class", path=dataset.yaml_path, message=message)


def _same(prints: Sequence[Print]) -> Iterator[Problem]:
    for pair in exact_pairs(prints):
        first, second = pair.first, pair.second
        message = f"{second.split} image is byte for byte {first.path} of {first.split}"
        if first.split == second.split:
            yield Problem(kind="repeated image", path=second.path, message=message)
        else:
            error = LeakError(f"{message}; delete it from one of them")
            yield _problem(error, path=second.path)


def _similar(prints: Sequence[Print]) -> Iterator[Problem]:
    for pair in near_pairs(prints):
        first, second = pair.first, pair.second
        message = (
            f"{second.split} image looks like {first.path} of {first.split} "
            f"(difference hash distance {pair.distance} of 64)"
        )
        yield Problem(kind="near duplicate", path=second.path, message=message)


def _changed(dataset: Dataset, *, found: str) -> Iterator[Problem]:
    recorded = dataset.recorded_fingerprint
    if recorded and recorded != found:
        message = f"records fingerprint {recorded[:19]}..., the files have {found[:19]}...; make a new card"
        yield Problem(kind="changed", path=dataset.yaml_path, message=message)
