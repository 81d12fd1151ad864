"""Precision plans: how many bits the weights and the activations of a network get.

A plan is frozen data: one precision for a whole network, or a mixed plan: a default and a precision for each
region that differs. Mixed plans are small YAML files that people read and edit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hexpath_quant.errors import OutputError, PlanError, UnknownNameError, unknown_name

GRANULARITIES = ("per-channel", "per-tensor")
BASE, FP16 = "w8a8", "fp16"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KEYS = ("plan", "default", "regions", "modules")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Integer precisions of one network.

    Attributes:
        weight_bits: of convolution, linear and norm weights; biases are int32.
        activation_bits: of every tensor between two operators.
        per_channel: one weight scale an output channel, else one a tensor.
        symmetric_weights: zero point 0, as Hexagon's convolutions want it.
    """

    weight_bits: int
    activation_bits: int
    per_channel: bool = True
    symmetric_weights: bool = True

    @property
    def name(self) -> str:
        """The plan as it is written: ``w8a8``, ``w4a8-per-tensor``."""
        return f"w{self.weight_bits}a{self.activation_bits}" + ("" if self.per_channel else "-per-tensor")


@dataclass(frozen=True, kw_only=True)
class MixedPlan:
    """A precision for each region of a network.

    Attributes:
        name: letters, digits, ``.``, ``-`` and ``_``.
        default: of every region that ``regions`` does not name.
        regions: region -> ``w8a8``, ``w8a16``, ``w4a8``, ``w4a16``, or ``fp16``: float in the file, half
            precision on the NPU.
        modules: region -> module prefixes, for regions that the plan itself makes; see ``regions_of``.
    """

    name: str
    default: str
    regions: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def base(self) -> Plan:
        """The default as an integer plan (w8a8 for fp16), for weight granularity and symmetry."""
        return PLANS["w8a8"] if self.default == FP16 else parse_precision(self.default)

    def precision(self, region: str) -> str:
        """Return the precision of a region as it is written."""
        return self.regions.get(region, self.default)

    def precisions(self, regions: Iterable[str]) -> dict[str, str]:
        """Return region -> precision for all ``regions``; UnknownNameError for one that they lack."""
        known = list(regions)
        for region in self.regions:
            if region not in known:
                raise unknown_name(kind=f"region of plan '{self.name}'", name=region, known=known)
        return {region: self.precision(region) for region in known}


AnyPlan = Plan | MixedPlan

PLANS: dict[str, Plan] = {
    "w8a8": Plan(weight_bits=8, activation_bits=8),
    "w8a16": Plan(weight_bits=8, activation_bits=16),
    "w4a8": Plan(weight_bits=4, activation_bits=8),
    "w4a16": Plan(weight_bits=4, activation_bits=16),
}

SAYS = {
    "w8a8": "the fastest on Hexagon; enough for most convolutional networks",
    "w8a16": "16-bit activations: close to float, two to three times slower than w8a8",
    "w4a8": "half the weights' size; needs qat",
    "w4a16": "half the weights' size with 16-bit activations",
}


def parse_plan(text: str) -> AnyPlan:
    """Read ``w8a8``, ``w8a8-per-tensor``, or the path of a plan file.

    Raises:
        UnknownNameError: no such plan; the message offers the nearest.
        OutputError, PlanError: see ``read_plan``.
    """
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return read_plan(Path(text))
    return parse_precision(text)


def parse_precision(text: str) -> Plan:
    """Read ``w8a8`` or ``w8a8-per-tensor``.

    Raises:
        UnknownNameError: no such plan; the message offers the nearest.
    """
    base, _, granularity = text.partition("-")
    if base in ("fp32", FP16):
        raise UnknownNameError(
            f"plan '{base}' is not quantized here; export the float model and compile that"
        )
    if base not in PLANS:
        known = [*PLANS, *(f"{name}-per-tensor" for name in PLANS)]
        raise unknown_name(kind="plan", name=text, known=known)
    if granularity and granularity not in GRANULARITIES:
        raise unknown_name(kind="weight granularity", name=granularity, known=GRANULARITIES)
    return replace(PLANS[base], per_channel=granularity != "per-tensor")


def read_plan(path: Path) -> MixedPlan:
    """Read a plan file: ``plan`` (a name), ``default`` and ``regions`` (region: precision).

    Raises:
        OutputError: no such file.
        PlanError: it does not say what it must, or of a precision that does not exist.
    """
    import yaml

    if not path.is_file():
        raise OutputError(f"--plan {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    return plan_of(content, where=str(path))


def plan_of(content: Any, *, where: str) -> MixedPlan:
    """Return the plan that a file's content states; ``where`` is for messages. Raises PlanError."""
    if not isinstance(content, dict) or "plan" not in content:
        raise PlanError(f"{where} is no plan: it needs 'plan: NAME', 'default: w8a8' and 'regions: {{...}}'")
    for key in content:
        if key not in KEYS:
            raise PlanError(f"{where}: {unknown_name(kind='key', name=str(key), known=KEYS)}")
    name, default, regions = str(content["plan"]), str(content.get("default", "w8a8")), content.get("regions")
    if not NAME.fullmatch(name):
        raise PlanError(f"{where}: plan name '{name}' may hold letters, digits, '.', '-' and '_' only")
    if not isinstance(regions or {}, dict):
        raise PlanError(f"{where}: regions must map a region to a precision, found {regions!r}")
    plan = MixedPlan(
        name=name,
        default=default,
        regions={str(r): str(p) for r, p in (regions or {}).items()},
        modules=_modules(content.get("modules") or {}, where=where),
    )
    _check_precisions(plan, where=where)
    return plan


def to_yaml(plan: MixedPlan) -> str:
    """Return the text of a plan file."""
    lines = [f"plan: {plan.name}", f"default: {plan.default}"]
    listed = [f"  {region}: {precision}" for region, precision in plan.regions.items()]
    lines += ["regions:", *listed] if listed else ["regions: {}"]
    made = [f"  {region}: [{', '.join(prefixes)}]" for region, prefixes in plan.modules.items()]
    return "\n".join([*lines, *(["modules:", *made] if made else [])]) + "\n"


def _modules(content: Any, *, where: str) -> dict[str, tuple[str, ...]]:
    listed = isinstance(content, dict) and all(isinstance(p, list) and p for p in content.values())
    if not listed:
        raise PlanError(f"{where}: modules must map a region to a list of module prefixes, found {content!r}")
    return {str(region): tuple(map(str, prefixes)) for region, prefixes in content.items()}


def _check_precisions(plan: MixedPlan, *, where: str) -> None:
    for precision in [plan.default, *plan.regions.values()]:
        if precision == FP16:
            continue
        try:
            found = parse_precision(precision)
        except UnknownNameError as error:
            raise PlanError(f"{where}: {error}") from error
        if found.per_channel != plan.base.per_channel:
            raise PlanError(f"{where}: '{precision}' and '{plan.default}' differ in weight granularity")
