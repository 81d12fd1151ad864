"""How to use Qualcomm AI Hub; free of heavy imports, for the command line."""

from __future__ import annotations

from dataclasses import dataclass

ITERATIONS = 100
LIMIT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """`device` is AI Hub's name of a device, else it follows from the target.

    `link`: compile to a DLC and link that, instead of compiling to a context binary. `job` is the id of a job
    to go on with. `options` are added to the compile job's. `limit_s` is how long one job may take.
    """

    device: str | None = None
    link: bool = False
    job: str | None = None
    options: str = ""
    iterations: int = ITERATIONS
    limit_s: float = LIMIT_S
