"""The report: whole, self-contained, escaped, whatever the record holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fixture_run
import pytest

from hexpath_deploy.cli import main
from hexpath_deploy.errors import ReportError, ResultsError
from hexpath_deploy.report import validate
from hexpath_deploy.report.document import render
from hexpath_deploy.report.known_error import known_error

SECTIONS = [
    "plans",
    "front",
    "classes",
    "curves",
    "pictures",
    "traffic",
    "agreement",
    "estimate",
    "origin",
    "words",
]
VOID = {"meta", "link", "br", "img", "hr", "input"}
NASTY = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Collects what the tests ask for; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.addresses.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(record: dict[str, Any], root: Path, **options: Any) -> Page:
    validate(record)
    html = render(record, root=root, **options)
    assert "url(" not in html
    assert "@import" not in html
    read = Page(html)
    assert "script" not in read.tags
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in read.addresses)
    assert {address[1:] for address in read.addresses if address.startswith("#")} <= set(read.ids)
    return read


def test_all_sections(record: dict[str, Any], run_folder: Path) -> None:
    read = page(record, run_folder)
    assert [name for name in read.ids if name in SECTIONS] == SECTIONS
    text = " ".join(" ".join(read.text).split())
    assert record["answer"][0] in text
    assert record["dataset"]["fingerprint"] in text
    known = known_error("w8a8", target="qcs9075")
    assert known is not None
    assert f"known error {known.text}" in text
    assert "latency, estimated" in text
    assert record["command"] in text
    assert "splits, train" in text
    assert read.tags.count("image") == 6
    assert read.tags.count("use") == 6


def test_an_estimate_is_never_called_a_measurement(record: dict[str, Any], run_folder: Path) -> None:
    text = " ".join(page(record, run_folder).text)
    for match in re.finditer(r"measure\w*", text):
        before = text[max(0, match.start() - 40) : match.end()]
        assert re.search(r"\b(no|nothing)\b", before), before


def test_measured_latency_has_no_estimate_section(record: dict[str, Any], run_folder: Path) -> None:
    for row in record["results"]:
        if "latency" in row:
            row["latency"]["source"] = "measured"
    read = page(record, run_folder)
    assert "estimate" not in read.ids
    assert "latency, measured" in " ".join(read.text)
    assert "known error" not in " ".join(read.text)


def test_marks_losses_and_warnings(record: dict[str, Any], run_folder: Path) -> None:
    row = next(row for row in record["results"] if row["id"] == "w8a8-raw-ptq")
    row["latency"] |= {"missing_ops": 4, "proxy": "qcs9075 (closest)"}
    row["cpu_ops"] = 3
    row["agreement"]["verdict"] = "fail"
    html = render(record, root=run_folder)
    assert '<span class="bad">\u221217.6</span>' in html
    assert '<span class="warn">\u22124.5</span>' in html
    assert "too low: leaves 4 operators out" in html
    assert "made for qcs9075 (closest)" in html
    assert "3 fall back to the CPU" in html
    assert "does not agree" in html


def everywhere_nasty(value: Any) -> Any:
    """Every free text of the record with markup in it."""
    if isinstance(value, dict):
        return {key: everywhere_nasty(item) for key, item in value.items()}
    if isinstance(value, list):
        return [everywhere_nasty(item) for item in value]
    return value + NASTY if isinstance(value, str) and " " in value else value


def test_escapes_everything(record: dict[str, Any], tmp_path: Path) -> None:
    record = everywhere_nasty(record)
    record["dataset"]["names"] = [NASTY, "b" * 200, '" onload="x']
    record["tools"][NASTY] = NASTY
    record["config"][NASTY] = [NASTY]
    for row in record["results"]:
        row["id"] += NASTY
        row["why"] = row["model"] = NASTY
        row["per_class"] = {NASTY: {"map": 0.5}, "b" * 200: {"map": 0.1}}
        for output in row.get("agreement", {}).get("outputs", []):
            output["name"] += NASTY
        for op in row.get("ops", []):
            op["type"] += NASTY
    for sample in record["samples"]:
        for box in sample["boxes"]:
            box["id"] += NASTY
    record["against"] += NASTY
    fixture_run.write_run(tmp_path, record=record)
    read = page(record, tmp_path)
    assert read.tags.count("image") == 6
    assert NASTY in " ".join(read.text)


def test_thirty_plans_and_eighty_classes(record: dict[str, Any], run_folder: Path) -> None:
    one = [row for row in record["results"] if row["id"] == "w8a8-raw-ptq"]
    record["results"] += [{**row, "id": f"candidate-{number}"} for number in range(30) for row in one]
    for row in record["results"]:
        if "per_class" in row:
            row["per_class"] = {f"class {number}": {"map50": number / 80} for number in range(80)}
    read = page(record, run_folder)
    assert "class 79" in " ".join(read.text)
    assert "candidate-29" in " ".join(read.text)


def test_fp32_is_a_line_only_where_it_is_one_network(record: dict[str, Any], run_folder: Path) -> None:
    assert "The dashed line is FP32." in " ".join(page(record, run_folder).text)
    fp32 = [row for row in record["results"] if row["id"] == "fp32"]
    record["results"] += [{**row, "id": "other/fp32", "model": "other"} for row in fp32]
    assert "The dashed line is FP32." not in " ".join(page(record, run_folder).text)


def test_masks_stand_below_the_boxes(record: dict[str, Any], run_folder: Path) -> None:
    for row in record["results"]:
        if row.get("evaluated_on") != "emulator":
            row["metrics"]["mask_map"] = 0.541 if row["id"] == record["results"][0]["id"] else 0.551
    html = render(record, root=run_folder)
    assert re.search(r"masks 54\.1\s*</span>", html)
    assert re.search(r"masks 55\.1.{0,60}\+1\.0", html)


def test_one_plan_without_anything_else(record: dict[str, Any], tmp_path: Path) -> None:
    row = next(row for row in record["results"] if row["id"] == "w8a8-raw-ptq")
    kept = {key: row[key] for key in ("id", "model", "method", "plan", "latency")}
    small = {key: record[key] for key in ("schema", "experiment", "name", "tools", "dataset")}
    del small["dataset"]["card"]
    read = page({**small, "results": [kept]}, tmp_path)
    assert [name for name in read.ids if name in SECTIONS] == ["plans", "estimate", "origin", "words"]
    assert "not evaluated" in " ".join(read.text)
    empty = page({**small, "results": []}, tmp_path)
    assert "The record holds no results." in " ".join(empty.text)


def test_one_class_and_no_fp32(record: dict[str, Any], run_folder: Path) -> None:
    record["results"] = [row for row in record["results"] if row["id"] != "fp32"]
    for sample in record["samples"]:
        sample["boxes"] = sample["boxes"][1:]
    for row in record["results"]:
        row.pop("same_images", None)
        if "per_class" in row:
            row["per_class"] = {"thing": row["metrics"]}
    read = page(record, run_folder)
    assert "no losses are shown" in " ".join(read.text)
    assert "no FP32 row to compare with" in " ".join(read.text)


def test_other_experiments(record: dict[str, Any], run_folder: Path) -> None:
    for row in record["results"]:
        row["metrics"] = {"miou": row["metrics"]["map"]}
        row.pop("per_class", None)
        row.pop("same_images", None)
        del row["head"]
    text = " ".join(page(record, run_folder).text)
    assert "mIoU" in text
    assert "mAP50-95, %" not in text


def test_class_names_come_from_the_truth_file(record: dict[str, Any], tmp_path: Path) -> None:
    del record["dataset"]["names"]
    fixture_run.write_run(tmp_path, record=record)
    truth = (tmp_path / "data/val.json").read_text()
    categories = '"categories": [{"id": 0, "name": "pedestrian"}, {"id": 2, "name": "bike"}], '
    (tmp_path / "data/val.json").write_text(truth.replace("{", "{" + categories, 1))
    text = " ".join(page(record, tmp_path).text)
    assert "pedestrian" in text
    assert "class 1" in text


def test_without_files(record: dict[str, Any], tmp_path: Path) -> None:
    read = page(record, tmp_path, files=False)
    assert "left out on request" in " ".join(read.text)
    assert "image" not in read.tags


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("data/1.png", b"", r"samples\[0\].image: .*1.png cannot be read"),
        ("data/val.json", b"[]", r"samples\[0\].truth: data/val.json is no COCO file with annotations"),
        (
            "eval/fp32-ort.json",
            b"{}",
            r"samples\[0\].boxes\[0\]: eval/fp32-ort.json is no list of detections",
        ),
        ("eval/fp32-ort.json", b"[1]", r"samples\[0\].boxes\[0\]: a box needs bbox"),
        ("eval/fp32-ort.json", b'[{"image_id": 1, "bbox": [1]}]', r"a box needs bbox \[x, y, w, h\]"),
        ("eval/fp32-ort.json", b"{", r"samples\[0\].boxes\[0\]: .*fp32-ort.json cannot be read"),
        ("data/card.json", b"[]", r"dataset.card: .*card.json holds a list; expected an object"),
        ("data/card.json", b"{", r"dataset.card: .*card.json cannot be read"),
    ],
)
def test_broken_file(record: dict[str, Any], tmp_path: Path, path: str, content: bytes, message: str) -> None:
    fixture_run.write_run(tmp_path)
    (tmp_path / path).write_bytes(content)
    with pytest.raises(ReportError, match=message):
        render(record, root=tmp_path)


def test_unknown_against(record: dict[str, Any], run_folder: Path) -> None:
    with pytest.raises(ResultsError, match="no plan is called 'fp61-raw'; did you mean 'fp16-raw'"):
        render(record, root=run_folder, against="fp61-raw")


def test_command(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "report.html"
    assert main(["report", str(run_folder / "results.json"), "--out", str(out)]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    assert Page(out.read_text(encoding="utf-8")).ids


def test_command_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "none.json"), "--out", str(out)]) == 90
    assert "hexpath-deploy: error: no such file" in capsys.readouterr().err
    path = fixture_run.write_run(tmp_path)
    (tmp_path / "data/3.png").unlink()
    assert main(["report", str(path), "--out", str(out)]) == 91
    assert "samples[2].image" in capsys.readouterr().err
    assert not out.exists()
    assert main(["report", str(path), "--out", str(out), "--without-files"]) == 0


def test_no_secret_in_the_report(
    record: dict[str, Any], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "feedc0de" * 5)
    record["config"] |= {
        "wandb_api_key": "other-secret",
        "env": f"WANDB_API_KEY={'feedc0de' * 5}",
        "keypoints": "17",
    }
    record["command"] += " " + "feedc0de" * 5
    html = render(record, root=run_folder)
    assert "feedc0de" not in html
    assert "other-secret" not in html
    assert "keypoints" in html


def test_chromium_lays_it_out(run_folder: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine: the layout is not checked")
    out = tmp_path / "report.html"
    assert main(["report", str(run_folder / "results.json"), "--out", str(out)]) == 0
    # A page that is wider than the window would scroll sideways: ask the browser itself.
    probe = (
        "<script>document.title=document.documentElement.scrollWidth+'/'+window.innerWidth</script></body>"
    )
    out.write_text(out.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    for width in (1280, 560):
        size = [f"--window-size={width},800", "--dump-dom", out.as_uri()]
        done = subprocess.run([*command, *size], capture_output=True, text=True, timeout=60, check=True)
        found = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout)
        assert found is not None
        assert int(found[1]) <= int(found[2])


def gated(record: dict[str, Any], *rows: dict[str, Any], verdict: str = "fail") -> dict[str, Any]:
    """Add a checklist to a record."""
    common = {"gate": "recall", "title": "recall", "unit": "share", "side": "min", "limit": 0.85}
    record["gates"] = {"verdict": verdict, "threshold": 0.4, "rows": [common | row for row in rows]}
    return record


def test_the_checklist_ends_the_report(record: dict[str, Any], run_folder: Path) -> None:
    rows = [
        {
            "verdict": "pass",
            "counts_as": "pass",
            "figure": 0.912,
            "subject": "person",
            "basis": "emulator, 32 images",
        },
        {"verdict": "fail", "counts_as": "fail", "figure": 0.5, "subject": NASTY, "explain": "more of them"},
        {"verdict": "unknown", "counts_as": "pass", "waived": "indoors"},
        {"verdict": "unknown", "counts_as": "unknown", "explain": "measure it"},
    ]
    html = render(gated(record, *rows), root=run_folder)
    page = Page(html)
    assert "gates" in page.ids
    text = " ".join(" ".join(page.text).split())
    assert "Not for release: 2 of 4 gates did not pass." in text
    for told in (
        "91.2 %",
        "at least 85.0 %",
        "emulator, 32 images",
        "To pass: more of them",
        "waived: indoors",
        "no figure",
    ):
        assert told in text
    assert NASTY not in html
    passed = render(gated(record, rows[0], verdict="pass"), root=run_folder)
    assert "Every gate passed" in passed


def test_no_gates_no_checklist(record: dict[str, Any], run_folder: Path) -> None:
    assert 'id="gates"' not in render(record, root=run_folder)


def test_amounts_have_their_units() -> None:
    from hexpath_deploy.report.labels import amount

    found = [
        amount(*pair)
        for pair in ((7.571, "ms"), (12.0, "count"), (0.5, "share"), (-1.25, "dB"), (2.0, "points"))
    ]
    assert found == ["7.57 ms", "12", "50.0 %", "\u22121.2 dB", "2.0 points"]
