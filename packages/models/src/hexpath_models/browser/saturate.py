"""Keep ONNX Runtime's 8-bit softmax from wrapping around.

Its CPU and WebAssembly kernel (QLinearSoftmax, seen in 1.31) does not saturate: a probability above the
range that calibration saw becomes a small one, where the NPU, and the same file without graph optimizations,
give the range's end. Every session fuses softmax and QuantizeLinear to that kernel by default.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def saturate_softmax(model: Any) -> int:
    """Put Min(probability, end of its 8-bit range) behind each softmax of an onnx.ModelProto.

    The values stay as they are: QuantizeLinear saturates there anyway. A Clip would not do, ONNX Runtime
    takes it out again. Returns how many were limited.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    limited = 0
    for index, node in reversed(list(enumerate(graph.node))):  # from the end: inserting moves what follows
        reader = readers.get(node.output[0]) if node.op_type == "Softmax" else None
        if reader is None or reader.op_type != "QuantizeLinear" or reader.input[2] not in values:
            continue
        scale, zero = (numpy_helper.to_array(values[name]) for name in reader.input[1:3])
        if zero.itemsize > 1:
            continue
        free, end = f"{node.output[0]}.free", f"{node.output[0]}.end"
        steps = np.float32(np.iinfo(zero.dtype).max - zero.astype(np.int32))
        graph.initializer.append(numpy_helper.from_array(np.float32(scale) * steps, end))
        limit = helper.make_node("Min", [free, end], [node.output[0]], name=f"{node.name}.limit")
        node.output[0] = free
        graph.node.insert(index + 1, limit)
        limited += 1
    return limited
