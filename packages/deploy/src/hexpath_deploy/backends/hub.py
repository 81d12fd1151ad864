"""Talking to Qualcomm AI Hub: tries again when the service stumbles, errors in one line, no secrets.

Written against qai-hub 0.56. Nothing here imports it before it is used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hexpath_deploy.errors import (
    DeployError,
    HubJobError,
    HubMissingError,
    HubTokenError,
    HubUnreachableError,
)

PAUSES_S = (2.0, 8.0, 30.0, 60.0)
HOW_TO = (
    "sign up at https://aihub.qualcomm.com, copy the API token from your account's settings, then run "
    "'qai-hub configure --api_token TOKEN', which keeps it in ~/.qai_hub/client.ini"
)
REMOVED = "[removed]"
Found = TypeVar("Found")


class Job(Protocol):
    """A job of AI Hub, as far as it is used here."""

    job_id: str
    name: str
    url: str

    def wait(self, timeout: int | None = None) -> Any:
        """Block until the job ends; returns its status."""

    def get_status(self) -> Any:
        """Return its status."""


class Client(Protocol):
    """`qai_hub.Client`, as far as it is used here."""

    config: Any

    def set_verbose(self, verbose: bool = True) -> None:
        """Let it print, or not."""

    def upload_model(self, model: Any, name: str | None = None) -> Any:
        """Upload a model."""

    def submit_compile_job(self, model: Any, device: Any, name: str | None = None, options: str = "") -> Any:
        """Submit a compile job."""

    def submit_link_job(self, models: Any, device: Any, name: str | None = None, options: str = "") -> Any:
        """Submit a link job."""

    def submit_inference_job(
        self, model: Any, device: Any, name: str | None = None, options: str = "", profile: bool = True
    ) -> Any:
        """Submit an inference job."""

    def get_job(self, job_id: str) -> Any:
        """Return a job."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The client, the class of its devices, and its exceptions: those that may pass, and others."""

    client: Client
    device: Callable[[str], Any]
    passing: tuple[type[Exception], ...]
    refusing: tuple[type[Exception], ...]
    token: str
    pauses_s: tuple[float, ...] = PAUSES_S

    def ask(self, what: str, call: Callable[[], Found]) -> Found:
        """Call AI Hub, and again after a pause when it stumbles.

        Raises:
            HubUnreachableError: it stumbled each time. HubTokenError: the token is not accepted.
            HubJobError: it refused.
        """
        for pause_s in (*self.pauses_s, None):
            try:
                return call()
            except self.passing as error:
                if pause_s is None:
                    raise HubUnreachableError(
                        f"AI Hub did not answer to {what}, tried {len(self.pauses_s) + 1} times "
                        f"({self.clean(error)}): run the same again later, jobs already submitted are kept"
                    ) from None
                time.sleep(pause_s)
            except self.refusing as error:
                raise self.refused(what, error) from None
        raise AssertionError("the last try either returns or raises")

    def refused(self, what: str, error: Exception) -> DeployError:
        """Return what a refusal means."""
        said = self.clean(error)
        if re.search(r"authenticat|API token|configuration file", said):
            return HubTokenError(f"AI Hub does not accept the API token ({said[:160]}): {HOW_TO}")
        return HubJobError(f"AI Hub refused {what}: {said[:600]}")

    def clean(self, error: object) -> str:
        """Return a text of AI Hub in one line, without the token."""
        text = str(error).replace(self.token, REMOVED) if self.token else str(error)
        return " ".join(re.sub(r"[│┌┐└┘─|]", " ", text).split())


def open_hub() -> Hub:
    """Import qai-hub and read its configuration; nothing is sent yet.

    Raises:
        HubMissingError: it is not installed. HubTokenError: there is no token.
    """
    try:
        import qai_hub
        from qai_hub.client import APIException, Error, InternalError, RateLimitedError, UserError
        from requests.exceptions import RequestException
    except ImportError:
        raise HubMissingError(
            "qai-hub is not installed: pip install 'hexpath-deploy[aihub]' (qai-hub 0.56 or newer)"
        ) from None
    client = qai_hub.Client()
    try:
        token = str(client.config.api_token)
    except UserError:
        raise HubTokenError(f"there is no API token for AI Hub on this machine: {HOW_TO}") from None
    client.set_verbose(False)
    return Hub(
        client=client,
        device=qai_hub.Device,
        passing=(InternalError, RateLimitedError, RequestException),
        refusing=(Error, APIException),
        token=token,
    )


def finish(hub: Hub, job: Any, *, kind: str, limit_s: float) -> Any:
    """Wait for a job and return it when it succeeded.

    Raises:
        HubJobError: it failed. HubUnreachableError: it still runs after `limit_s`.
    """
    try:
        status = hub.ask(f"the status of {kind} job {job.job_id}", lambda: job.wait(timeout=int(limit_s)))
    except TimeoutError:
        raise HubUnreachableError(
            f"AI Hub's {kind} job {job.job_id} still runs after {limit_s:.0f} s ({job.url}): run the "
            f"same again to go on waiting, or with --job {job.job_id}"
        ) from None
    if not status.success:
        raise HubJobError(
            f"AI Hub's {kind} job {job.job_id} failed: {hub.clean(status.message or status.code)} ({job.url})"
        )
    return job
