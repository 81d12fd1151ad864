"""A client of AI Hub that reaches nobody; its calls must bind to the real methods, where qai-hub is."""

from __future__ import annotations

import importlib.util
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hexpath_deploy.backends.hub import Hub

TOKEN = "tok-0123456789abcdef"
PROFILE = json.loads((Path(__file__).parent / "recorded" / "aihub-profile.json").read_text())


class StumbledError(Exception):
    """Plays qai_hub's InternalError."""


class RefusedError(Exception):
    """Plays qai_hub's UserError."""


def binds(method: str, *args: Any, **kwargs: Any) -> None:
    """Hold a call against qai_hub.Client."""
    if importlib.util.find_spec("qai_hub") is not None:
        import qai_hub

        inspect.signature(getattr(qai_hub.Client, method)).bind(None, *args, **kwargs)


@dataclass
class FakeJob:
    """A job that succeeds, unless it is told otherwise."""

    kind: str
    job_id: str
    name: str
    options: str = ""
    message: str | None = None
    waits: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://hub.example/jobs/{self.job_id}/"

    @property
    def job_type(self) -> str:
        return self.kind

    def wait(self, timeout: int | None = None) -> Any:
        assert timeout is None or isinstance(timeout, int)
        if self.waits:
            raise self.waits.pop(0)
        return SimpleNamespace(success=self.message is None, message=self.message, code="FAILED")

    def get_target_model(self) -> str:
        return f"model of {self.job_id}"

    def download_profile(self) -> dict[str, Any]:
        return PROFILE


@dataclass
class FakeClient:
    """`stumbles` are raised by the next calls; `prepared` jobs are handed out before new ones."""

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    stumbles: list[Exception] = field(default_factory=list)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def upload_model(self, *args: Any, **kwargs: Any) -> str:
        self.called("upload_model", *args, **kwargs)
        return "uploaded"

    def submit_compile_job(self, *args: Any, **kwargs: Any) -> FakeJob:
        assert Path(args[0]).is_file()
        return self.submit("compile", *args, **kwargs)

    def submit_link_job(self, *args: Any, **kwargs: Any) -> FakeJob:
        return self.submit("link", *args, **kwargs)

    def submit_inference_job(self, *args: Any, **kwargs: Any) -> FakeJob:
        return self.submit("inference", *args, **kwargs)

    def get_job(self, *args: Any, **kwargs: Any) -> FakeJob:
        self.called("get_job", *args, **kwargs)
        if args[0] not in self.jobs:
            raise RefusedError(f"job {args[0]} not found")
        return self.jobs[args[0]]

    def submit(self, kind: str, *args: Any, **kwargs: Any) -> FakeJob:
        self.called(f"submit_{kind}_job", *args, **kwargs)
        job_id = f"j{len(self.jobs)}{kind}"
        told = self.told.get(kind, {})
        job = FakeJob(kind, job_id, kwargs["name"], kwargs.get("options", ""), **told)
        self.jobs[job_id] = job
        return job

    def called(self, method: str, *args: Any, **kwargs: Any) -> None:
        binds(method, *args, **kwargs)
        if self.stumbles:
            raise self.stumbles.pop(0)
        self.calls.append((method, args))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def hub(client: FakeClient) -> Hub:
    """Return the fake as the backend gets the real one; pauses are short."""
    return Hub(
        client=client,  # type: ignore[arg-type]
        device=lambda name: f"device {name}",
        passing=(StumbledError,),
        refusing=(RefusedError,),
        token=TOKEN,
        pauses_s=(0.0, 0.0),
    )
