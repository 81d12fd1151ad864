"""Why do two computations of one model disagree? The hypothesis that makes them agree is the cause.

Each hypothesis is a usual fault of an export or of a preprocessing: exchanged colours, a normalization too
much, exchanged outputs, classes in another order, a scale that is off by a factor. What none of them explains
is looked for in the encodings: a tensor whose values lie far outside what its encoding can hold.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from hexpath_deploy.coco import Split
from hexpath_deploy.errors import AgreementError, DatasetError
from hexpath_deploy.reference.hexpath_reference import Floats
from hexpath_deploy.sanity import Graph

Outputs: TypeAlias = Mapping[str, Floats]
Inputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
Agrees: TypeAlias = Callable[[str, Floats, Floats], bool]
Run: TypeAlias = Callable[[Floats], Outputs]
Change: TypeAlias = Callable[[Floats], npt.NDArray[Any]]
Doubles: TypeAlias = npt.NDArray[np.float64]

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[None, :, None, None]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[None, :, None, None]
INPUTS: dict[str, Change] = {
    "the input's colour channels are swapped (RGB against BGR)": lambda x: x[:, ::-1],
    "the input is normalized once too often (divided by 255 twice)": lambda x: x * 255,
    "the input is not normalized where it should be (0 to 255 against 0 to 1)": lambda x: x / 255,
    "one side applies ImageNet's mean and deviation outside the graph, the other does not": (
        lambda x: (x - MEAN) / DEVIATION
    ),
    "one side undoes ImageNet's mean and deviation that the other applies": lambda x: x * DEVIATION + MEAN,
    "one side takes images in [-1, 1], the other in [0, 1]": lambda x: 2 * x - 1,
    "the image is mirrored": lambda x: x[..., ::-1],
    "the image is upside down": lambda x: x[..., ::-1, :],
}
# A tensor may exceed its encoding a little (percentile calibration does so on purpose).
FAR_OUTSIDE, FAR_INSIDE = 2.0, 1 / 16
# Matched detections that it takes to call a class order wrong, and the shares that must be crossed, or
# straight.
LEAST_MATCHES, CROSSED, STRAIGHT = 5, 0.6, 0.3


def diagnose(reference: Outputs, other: Outputs, *, agrees: Agrees, images: Floats | None, run: Run) -> str:
    """Return what makes `reference` agree with `other`, or an empty text.

    Args:
        reference: outputs (N, ...) of `run(images)`.
        other: what they should equal.
        agrees: says of an output's name and two arrays whether they are within tolerance.
        images: float32 (N, 3, H, W), at least one; None for a network of something else.
        run: computes the reference's outputs for other images.
    """
    bad = [name for name in reference if not agrees(name, reference[name], other[name])]
    if not bad:
        return ""
    causes = [explain_output(name, reference, other, agrees=agrees) for name in bad]
    if all(causes) or images is None:
        return first_of(causes)
    return explain_input(other, agrees=agrees, images=images, run=run) or first_of(causes)


def first_of(causes: Sequence[str]) -> str:
    """Return the first cause, and how many outputs more have one."""
    found = [cause for cause in causes if cause]
    more = f" (and {len(found) - 1} outputs more)" if len(found) > 1 else ""
    return found[0] + more if found else ""


def explain_input(other: Outputs, *, agrees: Agrees, images: Floats, run: Run) -> str:
    """Return which change of the input makes every output agree."""
    some = images[:2]
    for cause, change in INPUTS.items():
        changed = run(np.ascontiguousarray(change(some), np.float32))
        if all(agrees(name, changed[name], other[name][: len(some)]) for name in changed):
            return cause
    return ""


def explain_output(name: str, reference: Outputs, other: Outputs, *, agrees: Agrees) -> str:
    """Return what makes one output agree: another output's place, another order of channels, a factor."""
    ours, theirs = reference[name], other[name]
    for twin in reference:
        if twin != name and reference[twin].shape == theirs.shape and agrees(name, reference[twin], theirs):
            return f"the outputs are permuted: '{name}' holds what '{twin}' should"
    if ours.shape != theirs.shape:
        return ""
    order = channel_order(ours, theirs)
    if order is not None and agrees(name, ours[:, order], theirs):
        channels = f"the channels of output '{name}' (classes, or sides of a box)"
        return f"{channels} are in another order: {told(order)}"
    factor, offset = line(ours, theirs)
    if math.isfinite(factor) and factor and agrees(name, ours * np.float32(factor), theirs):
        return f"output '{name}' is off by a factor of {factor:.4g}: a wrong scale in its encoding"
    if math.isfinite(factor) and factor and agrees(name, (ours * factor + offset).astype(np.float32), theirs):
        return (
            f"output '{name}' is off by a factor of {factor:.4g} and {offset:+.4g}: a wrong scale or zero "
            "point in "
            "its encoding"
        )
    return ""


def told(order: npt.NDArray[np.intp], *, most: int = 12) -> str:
    """Return an order of channels as text."""
    some = ", ".join(str(place) for place in order[:most])
    return some + (", ..." if len(order) > most else "") + f" instead of 0 to {len(order) - 1}"


def channel_order(ours: Floats, theirs: Floats) -> npt.NDArray[np.intp] | None:
    """Return the order in which our channels (axis 1) are most like theirs; None: as they are, or unclear."""
    if ours.ndim < 3 or ours.shape[1] < 2:
        return None
    one, two = (
        np.moveaxis(array.astype(np.float64), 1, 0).reshape(array.shape[1], -1) for array in (ours, theirs)
    )
    distance = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1)[None] - 2 * one @ two.T
    order = distance.argmin(axis=0)
    if len(set(order.tolist())) != len(order) or (order == np.arange(len(order))).all():
        return None
    return order


def line(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """Return factor and offset of the line from our values to theirs, through 0 where that fits."""
    x, y = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    through_zero = float(x @ y / max(float(x @ x), 1e-30))
    spread = float(((x - x.mean()) ** 2).sum())
    if spread == 0:
        return through_zero, 0.0
    factor = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    offset = float(y.mean() - factor * x.mean())
    if abs(offset) < 0.02 * float(np.abs(y).max(initial=1e-30)):
        return through_zero, 0.0
    return factor, offset


# --- encodings that cannot hold their values ----------------------------------------------------------------


def explain_encodings(proto: onnx.ModelProto, examples: Sequence[Inputs]) -> str:
    """Return which tensor's encoding is far from its values, the worst first; empty when none is.

    The graph runs in float, without the Quantize and Dequantize nodes of its activations, and the values
    that reach each of these nodes are held against what its encoding can hold. A scale that is wrong is too
    small for most examples; one loud example was missing when the ranges were calibrated.
    """
    ranges = float_ranges(proto, examples)
    found = [(ratio, text) for ratio, text in misfits(proto, ranges) if text]
    return max(found)[1] if found else ""


def misfits(
    proto: onnx.ModelProto, ranges: Mapping[str, Sequence[tuple[float, float]]]
) -> Iterator[tuple[float, str]]:
    """Yield (how bad, in words) for each activation whose encoding does not fit its values."""
    for each in Graph(proto).encoded.values():
        reached = ranges.get(each.node.output[0]) or ranges.get(each.node.input[0])
        if each.node.op_type != "QuantizeLinear" or reached is None or each.scale.size != 1:
            continue
        limits = np.iinfo(each.zero_point.dtype)
        scale, zero = float(each.scale.reshape(())), int(each.zero_point.reshape(()))
        least, most = (limits.min - zero) * scale, (limits.max - zero) * scale
        reaches = sorted(max(abs(low), abs(high)) / max(abs(least), abs(most)) for low, high in reached)
        usual, largest = statistics.median_low(reaches), reaches[-1]
        low, high = min(low for low, _ in reached), max(high for _, high in reached)
        values = f"holds {least:.4g} to {most:.4g}, its values reach from {low:.4g} to {high:.4g}"
        if usual > FAR_OUTSIDE:
            yield usual, f"a wrong scale in the encoding of '{each.tensor}': it {values}"
        elif 0 < largest < FAR_INSIDE:
            yield (
                1 / largest,
                f"a wrong scale in the encoding of '{each.tensor}', far too coarse: it {values}",
            )


def float_ranges(proto: onnx.ModelProto, examples: Sequence[Inputs]) -> dict[str, list[tuple[float, float]]]:
    """Return lowest and highest value of every quantized activation in float, by example.

    By the tensor in front of the quantizer, or behind it where it cuts off what is negative.
    """
    import onnxruntime as ort

    bare = bypassed(proto)
    settings: Any = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    session = ort.InferenceSession(bare.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for example in examples:
        for name, value in zip(names, session.run(names, dict(example)), strict=True):
            found[name].append((float(value.min()), float(value.max())))
    return found


def bypassed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without its activations' Quantize and Dequantize nodes, each an output.

    A range that begins at 0 cuts off what is negative, and often is all that is left of a ReLU: a Relu takes
    the place of such a node.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    graph = Graph(bare)
    source: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not graph.is_constant(node.input[0]):
            if node.op_type == "QuantizeLinear" and begins_at_zero(graph, node):
                node.op_type = "Relu"
                del node.input[1:], node.attribute[:]
            else:
                source[node.output[0]] = source.get(node.input[0], node.input[0])
    keep = [node for node in graph.nodes if not node.output or node.output[0] not in source]
    for node in keep:
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)
    inputs = {value.name for value in bare.graph.input}
    watched = sorted({name for name in source.values() if name not in graph.constants} - inputs)
    del bare.graph.node[:]
    bare.graph.node.extend(keep)
    del bare.graph.output[:]
    del bare.graph.value_info[:]
    for name in watched:
        bare.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return bare


def begins_at_zero(graph: Graph, quantize: onnx.NodeProto) -> bool:
    """Say whether a quantizer holds nothing below 0."""
    each = graph.encoded.get(quantize.output[0])
    return each is not None and bool((each.zero_point == np.iinfo(each.zero_point.dtype).min).all())


# --- classes -----------------------------------------------------------------------------------------------


def check_class_order(
    split: Split, results: Sequence[Mapping[str, Any]], *, image_ids: Iterable[int]
) -> None:
    """Refuse a model whose detections lie on boxes of other classes, one class for another.

    Raises:
        DatasetError: names the classes that are exchanged.
    """
    counts = confusion(split, results, image_ids=image_ids)
    if len(counts) < 2:
        return
    totals = counts.sum(axis=1)
    likely = counts.argmax(axis=1)
    crossed = [
        place
        for place, total in enumerate(totals)
        if total >= LEAST_MATCHES
        and likely[place] != place
        and counts[place, likely[place]] >= CROSSED * total
        and counts[place, place] <= STRAIGHT * total
    ]
    if len(crossed) < 2 or len({int(likely[place]) for place in crossed}) != len(crossed):
        return
    swaps = ", ".join(
        f"'{split.names[place]}' lies on boxes of '{split.names[likely[place]]}'" for place in crossed
    )
    raise DatasetError(
        f"the model's classes are in another order than its names say: of its detections {swaps}: put the "
        "names in "
        "the order of training, or train with this dataset's"
    )


def confusion(
    split: Split, results: Sequence[Mapping[str, Any]], *, image_ids: Iterable[int], score: float = 0.25
) -> npt.NDArray[np.int64]:
    """Return how many detections of each class (row) lie on boxes of each class (column), IoU 0.5 or more."""
    from hexpath_deploy.gates.matching import overlap

    place = {category: index for index, category in enumerate(split.categories)}
    counts = np.zeros((len(place), len(place)), np.int64)
    wanted = set(image_ids)
    boxes: dict[int, list[Mapping[str, Any]]] = {image: [] for image in wanted}
    for entry in split.data["annotations"]:
        if entry["image_id"] in wanted:
            boxes[entry["image_id"]].append(entry)
    found: dict[int, list[Mapping[str, Any]]] = {}
    for result in results:
        if result["score"] >= score and boxes.get(result["image_id"]):
            found.setdefault(result["image_id"], []).append(result)
    for image, detections in found.items():
        overlaps = overlap(detections, boxes[image])
        for detection, row in zip(detections, overlaps, strict=True):
            best = int(row.argmax())
            if row[best] >= 0.5:
                truth = boxes[image][best]["category_id"]
                counts[place[detection["category_id"]], place[truth]] += 1
    return counts


def refuse(cause: str, *, what: str) -> None:
    """Raise when a cause was found.

    Raises:
        AgreementError: names the cause.
    """
    if cause:
        raise AgreementError(f"{what}: {cause}")
