"""Every way in which this package refuses, each with an exit code of its own (10 to 29)."""

from __future__ import annotations

from typing import ClassVar


class DataError(Exception):
    """Base of this package's errors; a message says what was found, where, and what to do next."""

    exit_code: ClassVar[int] = 10
    kind: ClassVar[str] = "data"


class DataYamlMissingError(DataError):
    """There is no such data.yaml."""

    exit_code = 11
    kind = "no data.yaml"


class DataYamlError(DataError):
    """The data.yaml is no YAML, lacks a key, or contradicts itself."""

    exit_code = 12
    kind = "data.yaml"


class SplitMissingError(DataError):
    """A split names a folder or list that does not exist."""

    exit_code = 13
    kind = "split missing"


class EmptySplitError(DataError):
    """A split holds no images."""

    exit_code = 14
    kind = "empty split"


class LabelFormatError(DataError):
    """A label row has the wrong number of columns, or a value that is no finite number."""

    exit_code = 15
    kind = "label format"


class ClassIdError(DataError):
    """A class id is negative, fractional, or beyond the dataset's names."""

    exit_code = 16
    kind = "class id"


class CoordinateError(DataError):
    """A coordinate lies outside [0, 1], or a box reaches out of the image."""

    exit_code = 17
    kind = "coordinate"


class BoxSizeError(DataError):
    """A box has no width or height, or a negative one."""

    exit_code = 18
    kind = "box size"


class DuplicateLabelError(DataError):
    """A label file holds the same row twice."""

    exit_code = 19
    kind = "duplicate label"


class ImageError(DataError):
    """An image is empty, cut off, or cannot be decoded."""

    exit_code = 20
    kind = "image"


class OrphanLabelError(DataError):
    """A label file belongs to no image."""

    exit_code = 21
    kind = "label without image"


class LeakError(DataError):
    """The same image content stands in two splits."""

    exit_code = 22
    kind = "leak"


class CocoError(DataError):
    """A COCO JSON file is malformed or contradicts itself."""

    exit_code = 23
    kind = "coco"


class ParameterError(DataError):
    """A parameter of the generator is out of range."""

    exit_code = 24
    kind = "parameter"


class OutputExistsError(DataError):
    """The output folder holds something that must not be overwritten."""

    exit_code = 25
    kind = "output exists"


class OutputError(DataError):
    """The output cannot be written: no permission, not a folder."""

    exit_code = 26
    kind = "output"


class DiskFullError(DataError):
    """The disk filled up while writing."""

    exit_code = 27
    kind = "disk full"


class MaskError(DataError):
    """Images and masks do not fit together, or hold ids or colours that nothing is known of."""

    exit_code = 28
    kind = "mask"


class OntologyError(DataError):
    """A terrain mapping is missing, malformed or incomplete."""

    exit_code = 29
    kind = "ontology"


def all_errors() -> tuple[type[DataError], ...]:
    """Return the base and every kind, by exit code."""
    return tuple(sorted((DataError, *DataError.__subclasses__()), key=lambda kind: kind.exit_code))
