"""A profile as qai-hub 0.56 hands it out: made by its own conversion of its own message type."""

from __future__ import annotations

from typing import Any


def made_by_qai_hub() -> dict[str, Any]:
    """Return `recorded/aihub-profile.json` from the source of qai-hub."""
    from qai_hub import public_api_pb2 as pb
    from qai_hub.client import _profile_pb_to_python_dict

    detail = pb.ProfileDetail(
        major_version=1,
        minor_version=2,
        execution_time=1875,
        after_execution_peak_memory=25_165_824,
        cold_load_time=310_000,
        warm_load_time=48_211,
        all_execution_times=[1875, 1902, 1890, 2450],
    )
    detail.execution_memory.peak.lower, detail.execution_memory.peak.upper = 4_194_304, 23_068_672
    for name, cycles, unit in (("/model.0/conv/Conv", 120_331, "NPU"), ("/model.1/conv/Conv", 98_002, "NPU")):
        layer = detail.layer_details.add(name=name, layer_type_name="Conv2d", execution_cycles=cycles)
        layer.compute_unit = pb.ComputeUnit.Value(f"COMPUTE_UNIT_{unit}")
    found: dict[str, Any] = _profile_pb_to_python_dict(detail)
    return found
