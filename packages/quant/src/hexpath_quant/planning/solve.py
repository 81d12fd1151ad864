"""The integer programs: one precision a region, least latency at most so much loss, or the reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from hexpath_quant.errors import PlanningError
from hexpath_quant.planning.figures import Figures, Term
from hexpath_quant.plans import BASE

TIE = 1e-4  # weight of the figure that is not minimized: of plans equal in one, the better in the other
STEP = 5e-4  # least step of the loss between two points of the front: a twentieth of a point
DEVIATIONS = 2  # of the noise of a measured loss: what two losses must differ by to be called different
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A plan for every region, and what the figures predict for it. ``drop``, ``error``: shares of 1."""

    plan: Mapping[str, str]
    ms: float
    mb: float
    drop: float
    error: float


def fastest(figures: Figures, *, max_drop: float | None = None, max_mb: float | None = None) -> Solution:
    """Return the plan of least latency whose loss is at most ``max_drop`` (0.005 is half a point).

    Raises:
        PlanningError: no plan keeps to it; says what the best plan would lose.
    """
    program = Program(figures)
    found = program.solve(program.ms + TIE * program.drop, program.limits(drop=max_drop, mb=max_mb))
    if found is None:
        best = most_accurate(figures)
        raise PlanningError(
            f"no plan loses at most {100 * (max_drop or 0):.2f} points"
            + (f" within {max_mb} MB" if max_mb else "")
            + f"; the most accurate loses {100 * best.drop:.2f} at {best.ms:.3f} ms"
        )
    return found


def most_accurate(figures: Figures, *, budget_ms: float | None = None) -> Solution:
    """Return the plan of least loss within a latency; of those that noise does not tell apart, the fastest.

    Raises:
        PlanningError: no plan is that fast; says what the fastest takes.
    """
    program = Program(figures)
    best = program.solve(program.drop + TIE * program.ms, program.limits(ms=budget_ms))
    if best is None:
        raise PlanningError(
            f"no plan takes at most {budget_ms} ms; the fastest takes {fastest(figures).ms:.3f} ms"
        )
    return fastest(figures, max_drop=best.drop + least_step(figures))


def least_step(figures: Figures) -> float:
    """Return the least difference of two losses that is not noise, a share of 1."""
    return max(STEP, DEVIATIONS * figures.noise)


def front(figures: Figures) -> Iterator[Solution]:
    """Yield the plans that no other beats in both latency and loss, fastest first (epsilon constraints).

    Each loses less than the one before it by more than noise: a plan that only seems to win is no point.
    """
    program = Program(figures)
    found = program.solve(program.ms + TIE * program.drop, program.limits())
    while found is not None:
        yield found
        limits = program.limits(drop=found.drop - least_step(figures))
        found = program.solve(program.ms + TIE * program.drop, limits)


def candidates(figures: Figures, *, rows: Sequence[Mapping[str, Any]]) -> list[Solution]:
    """Return measured plans (rows of ``measure_plans``) as solutions; ``error``: a measurement's noise."""
    found = []
    for row in rows:
        plan = {r: row["regions"].get(r, BASE) for r in figures.regions}
        ms, mb = figures.latency_ms(plan), figures.size_mb(plan)
        found.append(Solution(plan=plan, ms=ms, mb=mb, drop=row["drop"], error=figures.noise))
    return found


def measured_front(candidates: Sequence[Solution], *, step: float) -> list[Solution]:
    """Return the front of plans whose ``drop`` was measured, fastest first.

    Each loses less than the one before it by more than ``step``, the least difference that is not noise.
    """
    kept: list[Solution] = []
    for one in sorted(candidates, key=lambda s: (s.ms, s.drop)):
        if not kept or one.drop < kept[-1].drop - step:
            kept.append(one)
    return kept


def thin(solutions: Sequence[Solution], *, count: int) -> list[Solution]:
    """Return ``count`` points of a front: both ends, then one by one what adds most area below the front."""
    if len(solutions) <= count:
        return list(solutions)
    kept = [0, len(solutions) - 1][:count]
    while len(kept) < count:
        others = [i for i in range(len(solutions)) if i not in kept]
        kept.append(max(others, key=lambda i: _gain(solutions, kept=kept, new=i)))
    return [solutions[i] for i in sorted(kept)]


def _gain(solutions: Sequence[Solution], *, kept: Sequence[int], new: int) -> float:
    """Return the area between its neighbours on the front that a point adds."""
    left, right = max(i for i in kept if i < new), min(i for i in kept if i > new)
    return (solutions[right].ms - solutions[new].ms) * (solutions[left].drop - solutions[new].drop)


class Program:
    """Variables: a binary for each region and precision, and one between 0 and 1 for each term.

    A term's variable equals the product of its regions' binaries: at most each of them, at least their sum
    less all of them but one.
    """

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.keys = [(r, p) for r in figures.regions for p in figures.precisions(r)]
        self.terms: list[tuple[Term, bool]] = [(t, True) for t in figures.ms_terms]
        self.terms += [(t, False) for t in figures.drop_terms]
        self.terms = [(t, latency) for t, latency in self.terms if self._possible(t)]
        self.size = len(self.keys) + len(self.terms)
        self.ms = self._weights([figures.ms[r][p] for r, p in self.keys], latency=True)
        self.mb = self._weights([figures.mb[r][p] for r, p in self.keys], latency=None)
        self.drop = self._weights([figures.drop[r][p] for r, p in self.keys], latency=False)

    def limits(
        self, *, ms: float | None = None, mb: float | None = None, drop: float | None = None
    ) -> list[LinearConstraint]:
        """Return the constraints of a plan that keeps to the given limits."""
        wanted = [
            (self.ms, ms, self.figures.base_ms),
            (self.mb, mb, self.figures.base_mb),
            (self.drop, drop, 0.0),
        ]
        return [LinearConstraint(row, -np.inf, most - base) for row, most, base in wanted if most is not None]

    def solve(self, objective: Vector, limits: Sequence[LinearConstraint]) -> Solution | None:
        """Return the best plan, None when there is none."""
        binary = np.r_[np.ones(len(self.keys)), np.zeros(len(self.terms))]
        result = milp(
            objective,
            constraints=[*self._choices(), *self._products(), *limits],
            bounds=Bounds(0, 1),
            integrality=binary,
            options={"mip_rel_gap": 0},
        )
        if result.x is None:
            return None
        plan = {r: p for (r, p), value in zip(self.keys, result.x, strict=False) if value > 0.5}
        f = self.figures
        return Solution(
            plan=plan, ms=f.latency_ms(plan), mb=f.size_mb(plan), drop=f.loss(plan), error=f.error_of(plan)
        )

    def _possible(self, term: Term) -> bool:
        keys = set(self.keys)
        return all(any((r, p) in keys for p in wanted) for r, wanted in term.when.items())

    def _weights(self, values: Sequence[float], *, latency: bool | None) -> Vector:
        return np.array([*values, *(t.value if own is latency else 0.0 for t, own in self.terms)])

    def _choices(self) -> Iterator[LinearConstraint]:
        for region in self.figures.regions:
            row = np.zeros(self.size)
            row[[i for i, (r, _) in enumerate(self.keys) if r == region]] = 1
            yield LinearConstraint(row, 1, 1)

    def _products(self) -> Iterator[LinearConstraint]:
        for index, (term, _) in enumerate(self.terms, start=len(self.keys)):
            total = np.zeros(self.size)
            for region, wanted in term.when.items():
                own = [i for i, (r, p) in enumerate(self.keys) if r == region and p in wanted]
                row = np.zeros(self.size)
                row[index], row[own] = 1, -1
                total[own] = 1
                yield LinearConstraint(row, -np.inf, 0)
            total[index] = -1
            yield LinearConstraint(total, -np.inf, len(term.when) - 1)
