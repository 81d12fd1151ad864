"""Datasets for aerial detection: generate, read, check, describe.

The public surface is what stands in `__all__`; the command is `hexpath-data`.
"""

from hexpath_data.card import Card, make_card, write_card
from hexpath_data.checks import Problem, Report, check
from hexpath_data.coco import CocoImage, CocoInstance, CocoSet, read_coco, rle_decode, rle_encode, write_coco
from hexpath_data.dataset import Dataset, Split, label_path, read_dataset
from hexpath_data.errors import DataError
from hexpath_data.generator import GENERATOR_VERSION, Parameters, generate
from hexpath_data.identity import fingerprint
from hexpath_data.scenes import Frame, Instance, render
from hexpath_data.selection import Coverage, Selection, select
from hexpath_data.yolo import Box, read_labels, write_data_yaml, write_labels

__version__ = "0.1.0"

__all__ = [
    "GENERATOR_VERSION",
    "Box",
    "Card",
    "CocoImage",
    "CocoInstance",
    "CocoSet",
    "Coverage",
    "DataError",
    "Dataset",
    "Frame",
    "Instance",
    "Parameters",
    "Problem",
    "Report",
    "Selection",
    "Split",
    "__version__",
    "check",
    "fingerprint",
    "generate",
    "label_path",
    "make_card",
    "read_coco",
    "read_dataset",
    "read_labels",
    "render",
    "rle_decode",
    "rle_encode",
    "select",
    "write_card",
    "write_coco",
    "write_data_yaml",
    "write_labels",
]
