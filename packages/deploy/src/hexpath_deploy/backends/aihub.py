"""Backend `aihub`: compile, link, and measure on a device that Qualcomm AI Hub hosts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hexpath_deploy.backends import Request
from hexpath_deploy.backends.hub import Hub, finish, open_hub
from hexpath_deploy.backends.hub_settings import HubSettings
from hexpath_deploy.errors import HubJobError, OptionError, RecordError, StaleArtifactError
from hexpath_deploy.files import read_json, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.artifact import open_artifact
from hexpath_deploy.hexagon.options import Options, choose, prepare
from hexpath_deploy.model import Model, read_model
from hexpath_deploy.profile import MEASURED, HubJob, Latency, Profile, measured
from hexpath_deploy.targets import Target, target

# Names of the devices in AI Hub Models 0.65.0. A "(Proxy)" is another device with the same chip.
DEVICES = {
    "qcs9075": "Dragonwing IQ-9075 EVK",
    "qcs8550": "QCS8550 (Proxy)",
    "qcs8275": "Arduino VENTUNO Q",
    "sa8775p": "SA8775P ADP",
    "sm8550": "Samsung Galaxy S23",
    "sm8650": "Samsung Galaxy S24",
    "sm8750": "Samsung Galaxy S25",
}
COMPILE, LINK, INFERENCE = "compile", "link", "inference"
RUNTIMES = {False: "qnn_context_binary", True: "qnn_dlc"}
TIMED = "inference on the hosted device as AI Hub's profiler times it"
STATE, RAW = "aihub.json", "aihub-profile.json"


@dataclass(kw_only=True)
class Jobs:
    """The jobs of this profile, kept in a file from the moment that they are submitted."""

    path: Path
    key: str
    found: dict[str, HubJob]

    def keep(self, kind: str, job: Any) -> None:
        """Write a job down."""
        self.found[kind] = HubJob(kind=kind, id=str(job.job_id), url=str(job.url))
        self.write()

    def drop(self, kind: str) -> None:
        """Forget a job that failed, so that the next run submits it anew."""
        self.found.pop(kind, None)
        self.write()

    def write(self) -> None:
        """Write the file."""
        jobs = {kind: {"id": job.id, "url": job.url} for kind, job in self.found.items()}
        write_json(self.path, {"key": self.key, "jobs": jobs})


def profile(request: Request) -> Profile:
    """Compile on AI Hub (or upload what `compile` wrote), link if asked, run, and read the profile.

    Raises:
        HubMissingError, HubTokenError, HubJobError, HubUnreachableError: see backends.hub.
        OptionError: no device. StaleArtifactError: `--job` is another model's.
    """
    settings = request.hub or HubSettings()
    model = read_model(request.model)
    wanted = target_of(request, model)
    device = settings.device or device_of(wanted)
    options = choose(model, wanted, io=request.io, optimization=request.optimization, fp16=request.fp16)
    hub = open_hub()
    jobs = open_jobs(request, model=model, device=device, options=options)
    if settings.job is not None:
        attach(hub, settings.job, jobs=jobs, model=model)
    bench = Bench(hub=hub, jobs=jobs, settings=settings, device=hub.device(device), name=name_of(model))
    job = bench.measure(lambda: bench.ready(request, model=model, options=options))
    found = hub.ask("the profile", job.download_profile)
    write_json(request.raw / RAW, found)
    return record_of(model, wanted=wanted, device=device, found=found, jobs=jobs, options=options)


def target_of(request: Request, model: Model) -> Target:
    """Return the target: the named one, or that of the compiled folder."""
    if request.target is not None:
        return target(request.target)
    if request.compiled is not None:
        return target(str(open_artifact(request.compiled, model=model).card["target"]))
    raise OptionError("--backend aihub needs --target, or --compiled DIR")


def device_of(wanted: Target) -> str:
    """Return AI Hub's name of a target.

    Raises:
        OptionError: we know none.
    """
    if wanted.name not in DEVICES:
        raise OptionError(
            f"no device of AI Hub is known for {wanted.name}: name one with --hub-device "
            "('qai-hub list-devices')"
        )
    return DEVICES[wanted.name]


def name_of(model: Model) -> str:
    """Return the name that our jobs bear; it says which model they are of."""
    return f"hexpath {model.name} {model.sha256[:12]}"


def open_jobs(request: Request, *, model: Model, device: str, options: Options) -> Jobs:
    """Return the jobs of an interrupted run of the same profile, or none."""
    settings = request.hub or HubSettings()
    compiled = str(request.compiled) if request.compiled else None
    key = json.dumps([model.sha256, device, options.as_dict(), settings.link, settings.options, compiled])
    path = request.work / STATE
    try:
        state = read_json(path)
        kept = state["jobs"] if state["key"] == key else {}
        found = {kind: HubJob(kind=kind, id=job["id"], url=job["url"]) for kind, job in kept.items()}
    except (RecordError, KeyError, TypeError, AttributeError):
        found = {}
    return Jobs(path=path, key=key, found=found)


def attach(hub: Hub, job_id: str, *, jobs: Jobs, model: Model) -> None:
    """Go on with a job by its id; later stages are submitted anew unless they are known.

    Raises:
        StaleArtifactError: it was not submitted for this model. HubJobError: AI Hub does not know it.
    """
    job = hub.ask(f"job {job_id}", lambda: hub.client.get_job(job_id))
    kind = str(job.job_type)
    if kind not in (COMPILE, LINK, INFERENCE):
        raise OptionError(f"--job {job_id} is a {kind} job; one of {COMPILE}, {LINK}, {INFERENCE} is needed")
    if model.sha256[:12] not in job.name:
        raise StaleArtifactError(
            f"--job {job_id} is named '{job.name}', which is not of {model.path} ({model.sha256[:12]}): give "
            "the model that it was submitted for"
        )
    jobs.keep(kind, job)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """AI Hub with a device chosen, and the jobs so far."""

    hub: Hub
    jobs: Jobs
    settings: HubSettings
    device: Any
    name: str

    def job(self, kind: str, submit: Callable[[], Any]) -> Any:
        """Return a finished job: the one of an earlier run, else a new one, written down at once."""
        known = self.jobs.found.get(kind)
        if known is not None:
            job = self.hub.ask(f"{kind} job {known.id}", lambda: self.hub.client.get_job(known.id))
        else:
            job = self.hub.ask(f"a {kind} job", submit)
        self.jobs.keep(kind, job)
        try:
            return finish(self.hub, job, kind=kind, limit_s=self.settings.limit_s)
        except HubJobError:
            self.jobs.drop(kind)
            raise

    def ready(self, request: Request, *, model: Model, options: Options) -> Any:
        """Return the model that runs on the device."""
        if request.compiled is not None:
            artifact = open_artifact(request.compiled, model=model)
            binary = str(artifact.folder / artifact.card["binary"])
            return self.hub.ask("the upload", lambda: self.hub.client.upload_model(binary, name=self.name))
        made = self.job(COMPILE, lambda: self.compile(request, model=model, options=options))
        ready = self.hub.ask("the compiled model", made.get_target_model)
        if not self.settings.link:
            return ready
        linked = self.job(LINK, lambda: self.link(ready))
        return self.hub.ask("the linked model", linked.get_target_model)

    def compile(self, request: Request, *, model: Model, options: Options) -> Any:
        """Submit what the local compiler would get, too."""
        path = request.work / "model.onnx"
        prepare(model, options=options, path=path)
        words = f"--target_runtime {RUNTIMES[self.settings.link]} {self.settings.options}".strip()
        return self.hub.client.submit_compile_job(str(path), self.device, name=self.name, options=words)

    def link(self, ready: Any) -> Any:
        """Submit the link job."""
        return self.hub.client.submit_link_job([ready], self.device, name=self.name)

    def measure(self, ready: Callable[[], Any]) -> Any:
        """Return the finished inference job."""

        def submit() -> Any:
            return self.hub.client.submit_inference_job(
                model,
                self.device,
                name=self.name,
                options=f"--max_profiler_iterations {self.settings.iterations}",
                profile=True,
            )

        model = ready() if INFERENCE not in self.jobs.found else None
        return self.job(INFERENCE, submit)


def record_of(
    model: Model,
    *,
    wanted: Target,
    device: str,
    found: Mapping[str, Any],
    jobs: Jobs,
    options: Options,
) -> Profile:
    """Return the record of a profile as qai-hub's `download_profile` gives it.

    Raises:
        HubJobError: it holds no time.
    """
    summary = found.get("execution_summary", {})
    tools = {"qai-hub": metadata_version("qai-hub"), **own_version()}
    return Profile(
        backend="aihub",
        model=str(model.path),
        model_sha256=model.sha256,
        latency=latency_of(summary, wanted=wanted, device=device, tools=tools),
        options=options.as_dict(),
        tools=tools,
        peak_memory_mb=peak_memory_mb(summary),
        load_ms=in_ms(summary.get("warm_load_time")),
        device={"address": "aihub", "name": device},
        jobs=tuple(jobs.found.values()),
        **layers(found.get("execution_detail", [])),
    )


def latency_of(
    summary: Mapping[str, Any], *, wanted: Target, device: str, tools: Mapping[str, str]
) -> Latency:
    """Return the latency: from all times where they are given (microseconds), else AI Hub's one figure."""
    from dataclasses import replace

    times = [each / 1000 for each in summary.get("all_inference_times") or []]
    one = in_ms(summary.get("estimated_inference_time"))
    if not times and one is None:
        raise HubJobError("AI Hub's profile holds no inference time: look at the job's page")
    proxy = device if "(Proxy)" in device else None
    if times:
        found = measured(times, target=wanted.name, warm_up=0, timed=TIMED, tools=tools)
        return replace(found, warm_up=None, proxy=proxy)
    assert one is not None
    return Latency(value_ms=one, source=MEASURED, target=wanted.name, timed=TIMED, tools=tools, proxy=proxy)


def peak_memory_mb(summary: Mapping[str, Any]) -> float | None:
    """Return the most memory that inference took, in MB (1e6 bytes): the upper bound of a range."""
    bounds = summary.get("inference_memory_peak_range")
    peak = max(bounds) if isinstance(bounds, (list, tuple)) and bounds else None
    peak = peak if peak is not None else summary.get("estimated_inference_peak_memory")
    return peak / 1e6 if isinstance(peak, (int, float)) and peak > 0 else None


def in_ms(microseconds: Any) -> float | None:
    """Return microseconds as milliseconds; AI Hub writes what it does not have as null or below 0."""
    return microseconds / 1000 if isinstance(microseconds, (int, float)) and microseconds > 0 else None


def layers(detail: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return cycles by layer, and layers by compute unit."""
    cycles: dict[str, float] = defaultdict(float)
    for layer in detail:
        if "execution_cycles" in layer:
            cycles[str(layer["name"])] += layer["execution_cycles"]
    return {
        "op_cycles": dict(cycles),
        "compute_units": dict(Counter(str(layer["compute_unit"]) for layer in detail)),
    }


def metadata_version(name: str) -> str:
    """Return the version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def own_version() -> dict[str, str]:
    """Return our own version."""
    return {"hexpath-deploy": toolchain.versions()["hexpath-deploy"]}
