"""The cost table: what each region costs at each precision, in context, and how well that adds up."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import OptionError
from hexpath_deploy.files import sha256_file, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.cost import Compiler, Cost, Refusal, accepted
from hexpath_deploy.model import load_onnx
from hexpath_deploy.progress import Progress
from hexpath_deploy.regions.measure import Bench
from hexpath_deploy.regions.names import read_regions
from hexpath_deploy.regions.network import read_network
from hexpath_deploy.regions.precision import BASE, PRECISIONS
from hexpath_deploy.regions.predict import UNSCALED, compare, fitted
from hexpath_deploy.targets import Target, estimated_by, target

FORMULA = (
    "ms(plan) = base_ms + scale.regions * sum of regions[r][plan[r]].ms + scale.terms * sum of "
    "borders.terms[i].ms where plan[regions[0]] == precisions[0] and plan[regions[1]] == precisions[1]; "
    "mb(plan) likewise, without scale"
)


def open_bench(
    path: Path,
    *,
    target_name: str,
    cache: Path,
    io: str,
    optimization: int,
    limit_s: float,
) -> Bench:
    """Read a w8a8 model and its regions, and check the options.

    Raises:
        UnreadableModelError, MetadataError, OptionError, UnknownTargetError, EstimateError,
            ToolchainMissingError.
    """
    on = estimated_by(target(target_name))
    toolchain.require()
    network = read_network(load_onnx(path))
    compiler = Compiler(
        target=on, cache=cache, subject=path, io=io, optimization=optimization, limit_s=limit_s
    )
    return Bench(network=network, regions=read_regions(network), compiler=compiler)


def build(
    bench: Bench,
    *,
    target_name: str,
    precisions: Sequence[str],
    out: Path,
    workers: int = 2,
    plans: int = 40,
    seed: int = 0,
    isolated: bool = False,
) -> dict[str, Any]:
    """Measure, write the table to `out`, and return it. What was compiled before is not compiled again.

    Raises:
        CompileError: the w8a8 model itself does not compile; else as Bench.cost.
    """
    began = time.monotonic()
    wanted = target(target_name)
    check_float(precisions, target_name=target_name, fp16=wanted.fp16)
    base = accepted(bench.cost({}), what=f"{bench.compiler.subject} at {BASE}")
    table = header(bench, wanted=wanted, base=base)
    table |= regions_part(bench, base=base, precisions=precisions, workers=workers)
    table["whole"] = whole_part(bench, precisions=precisions, workers=workers)
    table["borders"] = borders_part(bench, table=table, precisions=precisions, workers=workers)
    table["fit"] = fit_part(bench, table=table, count=plans, seed=seed, workers=workers)
    if isolated:
        table["isolated"] = isolated_part(bench, base=base, workers=workers)
    table |= {"tools": toolchain.versions(), "seconds": round(time.monotonic() - began, 1)}
    write_json(out, table)
    return table


def header(bench: Bench, *, wanted: Target, base: Cost) -> dict[str, Any]:
    """Return what the table is of."""
    compiler = bench.compiler
    return {
        "schema": 1,
        "target": wanted.name,
        **({"proxy": compiler.target.name} if compiler.target is not wanted else {}),
        "soc_model": compiler.target.soc_model,
        "source": "estimate",
        "model": str(compiler.subject),
        "model_sha256": sha256_file(compiler.subject),
        "options": {"io": compiler.io, "optimization": compiler.optimization},
        "base": BASE,
        "base_ms": base.ms,
        "base_mb": base.mb,
        "base_cost": base.as_dict(),
    }


def check_float(precisions: Sequence[str], *, target_name: str, fp16: bool | None) -> None:
    """Refuse FP16 on an NPU without it."""
    for name in precisions:
        if PRECISIONS[name].activation_bits is None and fp16 is False:
            raise OptionError(f"the NPU of {target_name} has no FP16: leave {name} out of --precisions")


def delta(cost: Cost, base: Cost) -> dict[str, Any]:
    """Return what a plan costs more than the base, and its DDR traffic and spill."""
    return {
        "ms": round(cost.ms - base.ms, 6),
        "mb": round(cost.mb - base.mb, 6),
        "ddr_mb": round(cost.ddr_mb - base.ddr_mb, 6),
        "spill_mb": round(cost.spill_mb - base.spill_mb, 6),
        **({"missing_ops": cost.missing_ops} if cost.missing_ops else {}),
    }


def regions_part(bench: Bench, *, base: Cost, precisions: Sequence[str], workers: int) -> dict[str, Any]:
    """Flip each region alone inside the whole network: `regions`; `refused` where that does not compile."""
    singles = [(region, precision) for region in bench.names for precision in precisions]
    costs = bench.costs(
        [{region: precision} for region, precision in singles], workers=workers, progress=Progress("regions")
    )
    regions: dict[str, dict[str, Any]] = {region: {} for region in bench.names}
    refused: dict[str, dict[str, str]] = {}
    for (region, precision), cost in zip(singles, costs, strict=True):
        if isinstance(cost, Refusal):
            refused.setdefault(region, {})[precision] = cost.why
        else:
            regions[region][precision] = delta(cost, base)
    return {"regions": regions, "refused": refused}


def whole_part(bench: Bench, *, precisions: Sequence[str], workers: int) -> dict[str, Any]:
    """Compile the whole network at each precision."""
    costs = bench.costs([dict.fromkeys(bench.names, precision) for precision in precisions], workers=workers)
    return {
        precision: {"refused": cost.why} if isinstance(cost, Refusal) else cost.as_dict()
        for precision, cost in zip(precisions, costs, strict=True)
    }


def borders_part(
    bench: Bench, *, table: Mapping[str, Any], precisions: Sequence[str], workers: int
) -> dict[str, Any]:
    """Flip each two neighbours together: what that costs other than the sum of both alone."""
    pairs = [
        (a, b, p, q)
        for a, b in neighbours(bench)
        for p in precisions
        for q in precisions
        if 8 not in (PRECISIONS[p].activation_bits, PRECISIONS[q].activation_bits)
        and p in table["regions"][a]
        and q in table["regions"][b]
    ]
    costs = bench.costs([{a: p, b: q} for a, b, p, q in pairs], workers=workers, progress=Progress("borders"))
    terms, refused = [], []
    for (a, b, p, q), cost in zip(pairs, costs, strict=True):
        entry: dict[str, Any] = {"regions": [a, b], "precisions": [p, q]}
        if isinstance(cost, Refusal):
            refused.append({**entry, "why": cost.why})
        else:
            terms.append({**entry, **interaction(cost, table=table, plan={a: p, b: q})})
    return {
        "formula": FORMULA,
        "scale": UNSCALED,
        "terms": terms,
        "refused": refused,
        "crossings": crossings(bench),
    }


def interaction(cost: Cost, *, table: Mapping[str, Any], plan: Mapping[str, str]) -> dict[str, float]:
    """Return what a plan of two regions costs beyond base and marginals."""
    return {
        unit: round(
            value - table[f"base_{unit}"] - sum(table["regions"][r][p][unit] for r, p in plan.items()), 6
        )
        for unit, value in (("ms", cost.ms), ("mb", cost.mb))
    }


def crossings(bench: Bench) -> list[dict[str, Any]]:
    """Return the tensors that go from one region to another: {from, to, tensor, values}."""
    makers, shapes = bench.network.makers, bench.network.shapes
    found: dict[tuple[str, str, str], int] = {}
    for operator in bench.network.operators:
        for name in operator.reads:
            if name in makers and (start := bench.regions[makers[name].name]) != bench.regions[operator.name]:
                size = 1
                for side in shapes.get(name, ()):
                    size *= side
                found[start, bench.regions[operator.name], name] = size
    return [
        {"from": start, "to": end, "tensor": tensor, "values": size}
        for (start, end, tensor), size in found.items()
    ]


def neighbours(bench: Bench) -> list[tuple[str, str]]:
    """Return the pairs of regions that a tensor crosses between, each in graph order."""
    order = {name: place for place, name in enumerate(bench.names)}
    pairs = {tuple(sorted((row["from"], row["to"]), key=order.__getitem__)) for row in crossings(bench)}
    return sorted(((a, b) for a, b in pairs), key=lambda pair: (order[pair[0]], order[pair[1]]))


def random_plans(table: Mapping[str, Any], *, count: int, seed: int) -> list[dict[str, str]]:
    """Return seeded plans that flip a random share of the regions, each to a precision that it can have."""
    draw = random.Random(seed)
    plans = []
    for _ in range(count):
        share = draw.random()
        plan = {
            region: draw.choice(list(costs))
            for region, costs in table["regions"].items()
            if costs and draw.random() < share
        }
        plans.append(plan)
    return plans


def fit_part(bench: Bench, *, table: dict[str, Any], count: int, seed: int, workers: int) -> dict[str, Any]:
    """Compile random plans whole, fit the two scales to them, and say how well that predicts each."""
    drawn = random_plans(table, count=count, seed=seed)
    costs = bench.costs(drawn, workers=workers, progress=Progress("random plans"))
    kept = [(plan, cost) for plan, cost in zip(drawn, costs, strict=True) if isinstance(cost, Cost)]
    if not kept:
        return {"checked_plans": 0, "seed": seed, "refused_plans": len(drawn)}
    plans, measured = [plan for plan, _ in kept], [cost.ms for _, cost in kept]
    table["borders"]["scale"] = fitted(table, plans, measured)
    return {**compare(table, plans, measured), "seed": seed, "refused_plans": len(drawn) - len(kept)}


def isolated_part(bench: Bench, *, base: Cost, workers: int) -> dict[str, Any]:
    """Compile each region cut out of the network; their sum stands beside the whole."""
    costs = dict(
        zip(bench.names, bench.isolated(workers=workers, progress=Progress("isolated")), strict=True)
    )
    found = {region: cost.ms for region, cost in costs.items() if isinstance(cost, Cost)}
    total = sum(found.values())
    return {
        "regions": found,
        "refused": {region: cost.why for region, cost in costs.items() if isinstance(cost, Refusal)},
        "sum_ms": round(total, 6),
        "over_whole": round(total / base.ms, 3),
    }
