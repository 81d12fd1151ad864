"""Counting the operators of a compiled graph, from the JSON that the provider dumps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

# Qnn_DataType_t of QAIRT's QnnTypes.h: the high byte is the kind, the low byte the bits.
KINDS = {0x00: "int", 0x01: "uint", 0x02: "float", 0x03: "sfixed", 0x04: "ufixed", 0x05: "bool"}
BORDER = ("Quantize", "Dequantize")


def dtype_name(code: int) -> str:
    """Return a name such as `ufixed8` of a QNN data type."""
    kind, bits = code >> 8, code & 0xFF
    return f"{KINDS.get(kind, f'kind{kind}')}{bits:x}"


def read_census(folder: Path) -> list[dict[str, Any]]:
    """Count operators by type and data type of their first output.

    Returns rows {type, dtype, count, on}, most frequent first, as the record wants them.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted(folder.glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8")).get("graph")
        if graph is not None:
            counts.update(count_graph(graph))
    return [
        {"type": kind, "dtype": dtype, "count": count, "on": "npu"}
        for (kind, dtype), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def count_graph(graph: dict[str, Any]) -> Counter[tuple[str, str]]:
    """Count the operators of one graph."""
    tensors = graph["tensors"]
    return Counter(
        (node["type"], dtype_name(int(tensors[node["output_names"][0]]["data_type"])))
        for node in graph["nodes"].values()
    )


def float_islands(rows: list[dict[str, Any]]) -> int:
    """Count operators that compute in float, which a fully quantized graph has none of."""
    return sum(row["count"] for row in rows if row["dtype"].startswith("float") and row["type"] not in BORDER)
