"""Reading the CSV of qnn-profile-viewer, which onnxruntime-qnn writes in the same columns."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, median

from hexpath_deploy.errors import BoardRunError

COLUMNS = (
    "Msg Timestamp",
    "Message",
    "Time",
    "Unit of Measurement",
    "Timing Source",
    "Event Level",
    "Event Identifier",
)
# How the NPU's own time is called, the narrowest first.
ACCELERATOR_US = ("Accelerator (execute) time", "QNN accelerator (execute) time")
ACCELERATOR_CYCLES = "Accelerator (execute) time (cycles)"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One row: `message` names the phase, `source` NETRUN or BACKEND, `level` ROOT or SUB-EVENT."""

    message: str
    value: float
    unit: str
    source: str
    level: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Executions:
    """The events of all inferences in order: `graph_us` as the runner times them, `by_name` the NPU's own.

    `op_cycles` maps each operator to its cycles, one number an inference.
    """

    graph_us: tuple[float, ...] = ()
    by_name: dict[str, list[float]] = field(default_factory=dict)
    op_cycles: dict[str, list[float]] = field(default_factory=dict)

    def accelerator_ms(self, *, skip: int) -> float | None:
        """The NPU's own median time in ms, without the first `skip` inferences."""
        for name in ACCELERATOR_US:
            if times := self.by_name.get(name, [])[skip:]:
                return median(times) / 1000
        return None

    def accelerator_cycles(self, *, skip: int) -> float | None:
        """The NPU's cycles in the median inference."""
        found = self.by_name.get(ACCELERATOR_CYCLES, [])[skip:]
        return median(found) if found else None

    def mean_op_cycles(self, *, skip: int) -> dict[str, float]:
        """Cycles by operator, the mean over the inferences that count."""
        return {name: fmean(counts[skip:]) for name, counts in self.op_cycles.items() if counts[skip:]}


def read_csv(text: str, *, what: str) -> Executions:
    """Read the CSV; lines before the header belong to the tool.

    Raises:
        BoardRunError: there is no such header, or no inference below it.
    """
    by_name: dict[str, list[float]] = defaultdict(list)
    ops: dict[str, list[float]] = defaultdict(list)
    graph: list[float] = []
    for event in events(text, what=what):
        if event.name.startswith("Simulated ("):  # the compiler's estimate, which is no time of a device
            continue
        if event.unit == "CYCLES" and event.level == "SUB-EVENT":
            ops[plain(event.name)].append(event.value)
        elif event.source == "NETRUN" and event.message == "EXECUTE" and event.unit == "US":
            graph.append(event.value)
        elif "(execute)" in event.name:
            by_name[event.name].append(event.value)
    if not graph and not by_name:
        raise BoardRunError(f"{what} holds no inference: the run ended early, or profiling was off")
    return Executions(graph_us=tuple(graph), by_name=dict(by_name), op_cycles=dict(ops))


def events(text: str, *, what: str) -> Iterator[Event]:
    """Yield the rows below the header; an operator's name, which comes last, may hold commas."""
    rows = ([cell.strip() for cell in line.split(",", len(COLUMNS) - 1)] for line in text.splitlines())
    for row in rows:
        if tuple(row) == COLUMNS:
            break
    else:
        raise BoardRunError(f"{what} is no profile of Qualcomm's tools: no line '{', '.join(COLUMNS)}'")
    for row in rows:
        if len(row) == len(COLUMNS) and (value := number(row[2])) is not None:
            _, message, _, unit, source, level, name = row
            yield Event(
                message=message,
                value=value,
                unit=unit,
                source=source,
                level=level,
                name=name.strip('",'),
            )


def number(text: str) -> float | None:
    """Return a cell as a number, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def plain(name: str) -> str:
    """Turn `/conv/Conv:OpId_27 (cycles)` into `/conv/Conv`."""
    return re.sub(r"[: ]OpId_\d+$", "", name.removesuffix("(cycles)").strip())
