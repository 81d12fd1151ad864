from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from made import Made, needs_toolchain, read

from hexpath_deploy.backends import BACKENDS, backend
from hexpath_deploy.cli import main
from hexpath_deploy.errors import OptionError
from hexpath_deploy.profile import HubJob, Latency, Profile, Traffic, measured
from hexpath_deploy.record import facts

SCHEMA = json.loads(files("hexpath_deploy").joinpath("schema/profile-1.json").read_text())


def test_estimate_fits_the_schema_and_the_report(made: Made, tmp_path: Path) -> None:
    needs_toolchain()
    out = tmp_path / "p.json"
    assert main(["profile", str(made.model), "--target", "qcs8550", "--out", str(out)]) == 0
    record = read(out)
    jsonschema.validate(record, SCHEMA)
    assert (record["backend"], record["latency"]["source"]) == ("local", "estimate")
    assert record["latency"]["proxy"] == "qcs9075"
    assert record["proxy_why"]
    assert set(record["by_io"]) == {"quantized", "float"}
    assert record["by_io"]["quantized"]["latency"] == record["latency"]
    assert record["ddr_mb"] == pytest.approx(sum(record["ddr"].values()))
    assert set(facts({"profile": record})) == {"latency", "ddr_mb", "spill_mb", "ddr"}
    assert not (tmp_path / "p.json.work").exists()


def test_measurement_fits_the_schema() -> None:
    latency = measured([2.0, 1.0, 4.0, 3.0], target="qcs9075", warm_up=1, timed="t", tools={"a": "1"})
    assert (latency.value_ms, latency.mean_ms, latency.min_ms, latency.max_ms) == (2.5, 2.5, 1.0, 4.0)
    assert latency.p99_ms == pytest.approx(3.97)
    record = Profile(
        backend="aihub",
        model="m.onnx",
        model_sha256="0" * 64,
        latency=latency,
        options={"io": "float"},
        tools={"a": "1"},
        peak_memory_mb=12.0,
        device={"address": "aihub"},
        jobs=(HubJob(kind="compile", id="j", url="u"),),
    ).for_record()
    jsonschema.validate(json.loads(json.dumps(record)), SCHEMA)
    assert "ddr_mb" not in record
    assert set(facts({"profile": record})) == {"latency", "peak_memory_mb"}
    with pytest.raises(ValueError, match="no run was timed"):
        measured([], target="t", warm_up=0, timed="t", tools={})


def test_an_estimate_needs_its_bounds() -> None:
    latency = Latency(value_ms=1.0, source="estimate", target="qcs9075", tools={"a": "1"})
    record = Profile(
        backend="local",
        model="m",
        model_sha256="0" * 64,
        latency=latency,
        options={"io": "float"},
        tools={"a": "1"},
    )
    with pytest.raises(jsonschema.ValidationError, match="'low_ms' is a required property"):
        jsonschema.validate(record.for_record(), SCHEMA)


def test_results_take_no_emulated_latency() -> None:
    results = json.loads(files("hexpath_deploy").joinpath("schema/results-1.json").read_text())
    schema = {"$defs": results["$defs"], "$ref": "#/$defs/latency"}
    entry = {"value_ms": 1.0, "target": "qcs9075", "p99_ms": 2.0, "iterations": 100, "warm_up": 10}
    jsonschema.validate(entry | {"source": "measured"}, schema)
    with pytest.raises(jsonschema.ValidationError, match="'emulated' is not one of"):
        jsonschema.validate(entry | {"source": "emulated"}, schema)


def test_backends() -> None:
    for name in BACKENDS:
        assert callable(backend(name).profile)
    with pytest.raises(OptionError, match="unknown backend 'devise'; did you mean 'device'"):
        backend("devise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "hub"), "did you mean 'aihub'"),
        ((), "--backend local estimates for a device: name it with --target"),
        (("--backend", "device"), "--backend device needs --device: adb, adb:SERIAL or ssh://"),
        (("--backend", "device", "--device", "board"), "needs --compiled DIR, or --target"),
        (("--backend", "aihub"), "--backend aihub needs --target, or --compiled DIR"),
    ],
)
def test_what_a_backend_needs(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["profile", str(made.model), "--out", str(tmp_path / "p.json"), *arguments]) == 83
    assert message in capsys.readouterr().err


def test_traffic() -> None:
    traffic = Traffic(input_mb=1.0, fill_mb=2.0, spill_mb=3.0, output_mb=4.0)
    assert traffic.for_record()["ddr_mb"] == 10
    assert traffic.for_record()["spill_mb"] == 3
