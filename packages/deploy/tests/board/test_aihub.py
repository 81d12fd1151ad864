"""AI Hub, against a client that reaches nobody; its calls are held against the installed qai-hub."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from fake_hub import PROFILE, TOKEN, FakeClient, FakeJob, RefusedError, StumbledError, hub
from made import Made, read

from hexpath_deploy.backends import aihub
from hexpath_deploy.backends.hub import open_hub
from hexpath_deploy.cli import main
from hexpath_deploy.errors import HubJobError
from hexpath_deploy.model import read_model
from hexpath_deploy.targets import target, targets

SCHEMA = json.loads(files("hexpath_deploy").joinpath("schema/profile-1.json").read_text())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A client in place of the real one."""
    found = FakeClient()
    monkeypatch.setattr(aihub, "open_hub", lambda: hub(found))
    return found


def profile(made: Made, out: Path, *more: str) -> int:
    return main(
        ["profile", str(made.model), "--backend", "aihub", "--target", "qcs9075", "--out", str(out), *more]
    )


def test_compile_then_run(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.json"
    assert profile(made, out, "--iterations", "50", "--hub-options=--quantize_io") == 0
    record = read(out)
    jsonschema.validate(record, SCHEMA)
    assert client.names() == ["submit_compile_job", "submit_inference_job"]
    compiled, run = client.jobs.values()
    assert compiled.options == "--target_runtime qnn_context_binary --quantize_io"
    assert run.options == "--max_profiler_iterations 50"
    assert client.calls[1][1] == ("model of j0compile", "device Dragonwing IQ-9075 EVK")
    assert [job["url"] for job in record["jobs"]] == [compiled.url, run.url]
    assert compiled.url in capsys.readouterr().out
    found = record["latency"]
    assert (found["source"], found["value_ms"], found["min_ms"], found["iterations"]) == (
        "measured",
        1.896,
        1.875,
        4,
    )
    assert record["peak_memory_mb"] == 23.068672
    assert record["load_ms"] == 48.211
    assert record["op_cycles"] == {"/model.0/conv/Conv": 120331, "/model.1/conv/Conv": 98002}
    assert record["compute_units"] == {"NPU": 2}
    assert read(tmp_path / "p.raw" / "aihub-profile.json") == PROFILE
    assert not (tmp_path / "p.json.work").exists()
    assert TOKEN not in out.read_text()


def test_link(made: Made, tmp_path: Path, client: FakeClient) -> None:
    assert profile(made, tmp_path / "p.json", "--link") == 0
    assert client.names() == ["submit_compile_job", "submit_link_job", "submit_inference_job"]
    assert client.jobs["j0compile"].options == "--target_runtime qnn_dlc"
    assert client.calls[1][1][0] == ["model of j0compile"]
    assert client.calls[2][1][0] == "model of j1link"


def test_our_own_binary(made: Made, compiled: Path, tmp_path: Path, client: FakeClient) -> None:
    assert profile(made, tmp_path / "p.json", "--compiled", str(compiled)) == 0
    assert client.names() == ["upload_model", "submit_inference_job"]
    assert client.calls[0][1] == (str(compiled / "model_ctx.bin"),)


def test_goes_on_after_an_interruption(made: Made, tmp_path: Path, client: FakeClient) -> None:
    client.told["inference"] = {"waits": [KeyboardInterrupt()]}
    out = tmp_path / "p.json"
    assert profile(made, out) == 130
    state = read(tmp_path / "p.json.work" / "aihub.json")
    assert {kind: job["id"] for kind, job in state["jobs"].items()} == {
        "compile": "j0compile",
        "inference": "j1inference",
    }
    client.calls.clear()
    assert profile(made, out) == 0
    assert client.names() == ["get_job"], "nothing is submitted twice"
    assert [job["kind"] for job in read(out)["jobs"]] == ["compile", "inference"]


def test_other_options_are_another_profile(made: Made, tmp_path: Path, client: FakeClient) -> None:
    client.told["inference"] = {"waits": [KeyboardInterrupt()]}
    assert profile(made, tmp_path / "p.json") == 130
    client.told.clear()
    assert profile(made, tmp_path / "p.json", "--link") == 0
    assert "submit_link_job" in client.names()


def test_job_by_its_id(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    name = aihub.name_of(read_model(made.model))
    client.jobs = {
        "jp1": FakeJob("inference", "jp1", name),
        "jc1": FakeJob("compile", "jc1", name),
        "jx1": FakeJob("inference", "jx1", "of somebody else"),
        "jq1": FakeJob("quantize", "jq1", name),
    }
    out = tmp_path / "p.json"
    assert profile(made, out, "--job", "jp1") == 0
    assert set(client.names()) == {"get_job"}
    assert profile(made, out, "--job", "jc1") == 0
    assert "submit_inference_job" in client.names()
    assert "submit_compile_job" not in client.names()
    for job, code, message in (
        ("jx1", 81, "named 'of somebody else', which is not of"),
        ("jq1", 83, "--job jq1 is a quantize job"),
        ("nope", 123, "AI Hub refused job nope: job nope not found"),
    ):
        capsys.readouterr()
        assert profile(made, out, "--job", job) == code
        assert message in capsys.readouterr().err


def test_tries_again(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.stumbles = [StumbledError("503"), StumbledError("503")]
    assert profile(made, tmp_path / "p.json") == 0
    client.stumbles = [StumbledError(f"down, token {TOKEN}")] * 3
    assert profile(made, tmp_path / "q.json") == 124
    error = capsys.readouterr().err
    assert "did not answer to a compile job, tried 3 times (down, token [removed])" in error
    assert TOKEN not in error


def test_waiting_survives_a_stumble(made: Made, tmp_path: Path, client: FakeClient) -> None:
    client.told["compile"] = {"waits": [StumbledError("502")]}
    assert profile(made, tmp_path / "p.json") == 0


def test_failed_job(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.told["compile"] = {"message": "unsupported op"}
    assert profile(made, tmp_path / "p.json") == 123
    assert (
        "compile job j0compile failed: unsupported op (https://hub.example/jobs/j0compile/)"
        in capsys.readouterr().err
    )
    client.told.clear()
    assert profile(made, tmp_path / "p.json") == 0, "a failed job is submitted anew"


def test_job_that_does_not_end(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.told["inference"] = {"waits": [TimeoutError()]}
    assert profile(made, tmp_path / "p.json", "--job-limit", "60") == 124
    assert "still runs after 60 s" in (error := capsys.readouterr().err)
    assert "or with --job j1inference" in error


@pytest.mark.parametrize(
    ("said", "code"), [("Failed to authenticate. │ bad or expired API token │", 122), ("no such device", 123)]
)
def test_refusals(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str], said: str, code: int
) -> None:
    client.stumbles = [RefusedError(said)]
    assert profile(made, tmp_path / "p.json") == code
    assert ("qai-hub configure --api_token TOKEN" in capsys.readouterr().err) == (code == 122)


def test_no_token(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("qai_hub", reason="qai-hub is not installed")
    from qai_hub import api_utils

    monkeypatch.setenv(api_utils.QAIHUB_CLIENT_ENV, str(tmp_path / "none.ini"))
    assert profile(made, tmp_path / "p.json") == 122
    error = capsys.readouterr().err
    assert "there is no API token for AI Hub on this machine: sign up at" in error
    assert len(error.splitlines()) == 1


def test_token_is_read_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qai_hub", reason="qai-hub is not installed")
    from qai_hub import api_utils

    path = tmp_path / "client.ini"
    path.write_text(
        f"[api]\napi_token = {TOKEN}\napi_url = https://hub.invalid\nweb_url = https://hub.invalid\n"
    )
    monkeypatch.setenv(api_utils.QAIHUB_CLIENT_ENV, str(path))
    found = open_hub()
    assert found.token == TOKEN
    assert found.clean(f"bad {TOKEN}\n│ said │") == "bad [removed] said"
    assert found.client.config.verbose is False


def test_qai_hub_is_missing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    assert profile(made, tmp_path / "p.json") == 121
    assert "pip install 'hexpath-deploy[aihub]'" in capsys.readouterr().err


def test_no_backend_imports_it_before_it_is_used() -> None:
    names = "hexpath_deploy.backends.aihub, hexpath_deploy.backends.device, hexpath_deploy.backends.local"
    code = f"import sys, {names}, hexpath_deploy.evaluate; assert 'qai_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_we_call_exists_in_qai_hub() -> None:
    qai_hub = pytest.importorskip("qai_hub", reason="qai-hub is not installed")
    from hub_profile import made_by_qai_hub

    assert "profile" in inspect.signature(qai_hub.Client.submit_inference_job).parameters
    inspect.signature(qai_hub.CompileJob.wait).bind(None, timeout=5)
    inspect.signature(qai_hub.CompileJob.get_target_model).bind(None)
    inspect.signature(qai_hub.LinkJob.get_target_model).bind(None)
    inspect.signature(qai_hub.InferenceJob.download_profile).bind(None)
    inspect.signature(qai_hub.Device).bind("Dragonwing IQ-9075 EVK")
    kinds = {kind.display_name for kind in qai_hub.JobType}
    assert {aihub.COMPILE, aihub.LINK, aihub.INFERENCE} <= kinds
    assert json.loads(json.dumps(made_by_qai_hub())) == PROFILE


def test_profiles_of_all_versions(made: Made) -> None:
    model = read_model(made.model)
    assert set(aihub.DEVICES) <= set(targets())
    words = {"wanted": target("qcs8550"), "device": "QCS8550 (Proxy)", "tools": {}}
    old = aihub.latency_of({"estimated_inference_time": 1900, "all_inference_times": []}, **words)
    assert (old.value_ms, old.iterations, old.proxy, old.source) == (1.9, None, "QCS8550 (Proxy)", "measured")
    with pytest.raises(HubJobError, match="holds no inference time"):
        aihub.latency_of({}, **words)
    assert aihub.peak_memory_mb({"estimated_inference_peak_memory": 5_000_000}) == 5
    assert aihub.peak_memory_mb({"inference_memory_peak_range": None}) is None
    assert aihub.in_ms(-1) is None
    assert model.sha256[:12] in aihub.name_of(model)


def test_target_without_a_device(
    made: Made, tmp_path: Path, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    head = ["profile", str(made.model), "--backend", "aihub", "--out", str(tmp_path / "p.json")]
    assert main([*head, "--target", "sa8255p"]) == 83
    assert "no device of AI Hub is known for sa8255p: name one with --hub-device" in capsys.readouterr().err
    assert main([*head, "--target", "sa8255p", "--hub-device", "SA8255P (Proxy)"]) == 0
    assert read(tmp_path / "p.json")["latency"]["proxy"] == "SA8255P (Proxy)"
