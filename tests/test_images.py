"""docker/: pins and users in the Dockerfiles, what one reads when a build fails, Qualcomm's archive."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import containers

REPO = Path(__file__).resolve().parent.parent
DOCKER = REPO / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
sys.path.insert(0, str(DOCKER))

import images  # noqa: E402

UNPACK = DOCKER / "qairt" / "unpack.py"


def fake_docker(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a docker command on the PATH that does what the shell script says."""
    command = folder / "docker"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


# --- the Dockerfiles ------------------------------------------------------------------------------------


def test_every_image_has_its_dockerfile_and_smoke_test() -> None:
    names = set(containers.images_toml()["images"])
    assert {path.stem for path in DOCKERFILES} == names
    assert {path.stem for path in (DOCKER / "smoke").glob("*.py")} == names


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_every_from_is_the_pinned_base(path: Path) -> None:
    lines = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", path.read_text(), re.MULTILINE)
    assert lines
    earlier = {"${BASE}", "scratch"}
    for source, stage in lines:
        assert source in earlier, "neither the pinned base nor a stage of this file"
        earlier.add(stage)
    base = containers.images_toml()["base"]
    assert f"ARG BASE={base['image']}:{base['tag']}\n" in path.read_text()


def test_the_base_has_a_tag_and_a_digest_that_only_a_registry_gave() -> None:
    base = containers.images_toml()["base"]
    assert re.fullmatch(r"[\d.]+[\w.-]*", base["tag"]), "a moving tag such as latest is no pin"
    assert re.fullmatch(r"(sha256:[0-9a-f]{64})?", base["digest"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_requirements_are_checked_by_hash_and_nobody_is_root(path: Path) -> None:
    text = path.read_text()
    installs = re.findall(r"pip install (.*?)(?: \\$| && |$)", text, re.MULTILINE)
    assert installs
    assert all("--require-hashes" in i or "--no-index --no-deps" in i for i in installs)
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1:] == ["hexpath"]
    assert "pip check" in text
    assert not re.search(r"build-essential|\bgcc\b|git clone|\bADD\b|SECRET|TOKEN", text)
    assert not re.search(r"RUN --mount|COPY --link|<<EOF|# syntax=", text), "BuildKit only"


# --- what a person reads --------------------------------------------------------------------------------


def test_each_error_has_its_own_exit_status() -> None:
    kinds = [containers.ContainerError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(codes) >= 10
    assert len(set(codes)) == len(codes)


NO_ENGINE = 'echo "Cannot connect to the Docker daemon at unix:///x. Is it running?" >&2; exit 1'
REFUSED = 'echo "permission denied while trying to connect to the Docker daemon socket" >&2; exit 1'
NO_BASE = 'case "$1" in version) echo 1;; *) echo "No such image, no such host" >&2; exit 1;; esac'


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        (NO_ENGINE, 101, "no Docker engine answers at unix:///run/x.sock: start it, or set DOCKER_HOST"),
        (REFUSED, 102, "the Docker engine at unix:///run/x.sock refuses this user: join the group 'docker'"),
        (NO_BASE, 105, "the base image python:3.11-slim-bookworm"),
    ],
)
def test_one_line_for_what_the_engine_lacks(
    script: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_docker(tmp_path, script, monkeypatch)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/x.sock")
    assert images.main(["qnn"]) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_no_docker_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert images.main(["qnn"]) == 101
    assert "no docker command on the PATH" in capsys.readouterr().err


def test_an_image_that_was_never_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path, 'echo "No such image" >&2; exit 1', monkeypatch)
    with pytest.raises(
        containers.ImageMissingError, match=r"there is no image hexpath/qnn:.*nox -s images -- qnn"
    ):
        containers.find_image("qnn")


def test_an_image_of_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {containers.LABEL_SOURCE: '{"deploy": "old"}', containers.LABEL_TOOLS: "{}"}
    facts = [{"Id": "sha256:1", "Config": {"Labels": labels}, "RootFS": {"Layers": []}}]
    fake_docker(tmp_path, f"cat <<'X'\n{json.dumps(facts)}\nX", monkeypatch)
    with pytest.raises(containers.StaleImageError, match="was built from other sources than this checkout"):
        containers.find_image("qnn")


def test_an_unchanged_image_with_new_labels_reruns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, layer in enumerate(("a", "a", "b")):
        labels = {
            containers.LABEL_SOURCE: json.dumps({"deploy": containers.source("deploy")}),
            containers.LABEL_TOOLS: '{"onnx": "1"}',
            "org.opencontainers.image.revision": str(number),
        }
        facts = [{"Id": str(number), "Config": {"Labels": labels}, "RootFS": {"Layers": [layer]}}]
        fake_docker(tmp_path, f"cat <<'X'\n{json.dumps(facts)}\nX", monkeypatch)
        found.append(containers.find_image("qnn"))
    assert found[0].digest == found[1].digest != found[2].digest
    assert found[0].tools == {"onnx": "1"}


MISMATCH = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated ...
    attrs==26.1.0 from file:///a.whl (from -r /install/requirements.txt (line 9)):
        Expected sha256 c6
             Got        c7
The command '/bin/sh -c ...' returned a non-zero code: 1
"""


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (MISMATCH, images.HashMismatchError, "attrs==26.1.0 is not the file that the lock pins"),
        ("Step 1\nqairt: error: it.zip is no zip\n", images.QairtArchiveError, "it.zip is no zip"),
        ("Step 1\nno space left on device\n", images.BuildError, "the build failed: no space left on device"),
    ],
)
def test_a_failed_build_in_one_line(said: str, kind: type[Exception], message: str) -> None:
    error = images.build_failure(said)
    assert type(error) is kind
    assert message in str(error)


def test_labels_follow_the_oci_annotations() -> None:
    facts = containers.images_toml()["images"]["qnn"]
    labels = images.labels("qnn", facts, base="python:3.11-slim-bookworm@sha256:12")
    oci = {key.rpartition("image.")[2]: value for key, value in labels.items() if "opencontainers" in key}
    assert oci["licenses"] == "Apache-2.0"
    assert oci["base.digest"] == "sha256:12"
    assert oci["version"] == containers.tag_of("qnn").partition(":")[2]
    assert set(oci) == {"title", "source", "revision", "version", "licenses", "base.name", "base.digest"}
    assert json.loads(labels[containers.LABEL_TOOLS]).keys() >= {"onnxruntime-qnn", "hexpath-deploy"}


def test_a_release_tag_is_routed_to_its_package_and_images() -> None:
    version = containers.package_version("models")
    assert images.route(f"models-v{version}") == 'package=models\nimages=["ultralytics", "aimet"]'
    assert images.route("") == 'package=\nimages=["ultralytics", "aimet", "qnn"]'


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("v0.1.0", "tag 'v0.1.0' is no release: PACKAGE-vVERSION, with one of data, deploy, models, quant"),
        ("quant-v9.9.9", "tag 'quant-v9.9.9', but packages/quant is "),
    ],
)
def test_a_wrong_release_tag(tag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main(["--route", tag]) == images.TagError.exit_code
    assert message in capsys.readouterr().err


# --- Qualcomm's SDK -------------------------------------------------------------------------------------


def archive(path: Path, *entries: str, mode: int = 0o100755) -> str:
    """A zip with these entries; returns its SHA-256."""
    with zipfile.ZipFile(path, "w") as file:
        for name in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, "#!/bin/sh\necho sdk $LD_LIBRARY_PATH\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(source: str, sha256: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, UNPACK, source, sha256, folder], capture_output=True, text=True)


TOOL = "qairt/2.51.0/bin/x86_64-linux-clang/qnn-net-run"


def test_the_sdk_is_unpacked_with_its_tools(tmp_path: Path) -> None:
    sha256 = archive(tmp_path / "sdk.zip", TOOL, "qairt/2.51.0/lib/python/qti/__init__.py")
    done = unpack((tmp_path / "sdk.zip").as_uri(), sha256, tmp_path / "qairt")
    assert done.returncode == 0, done.stdout
    said = subprocess.run([tmp_path / "qairt/tools/qnn-net-run"], capture_output=True, text=True).stdout
    assert said.startswith(f"sdk {tmp_path}/qairt/sdk/lib/x86_64-linux-clang")


def test_without_an_archive_the_folder_is_empty(tmp_path: Path) -> None:
    assert unpack("", "", tmp_path / "qairt").returncode == 0
    assert list((tmp_path / "qairt").iterdir()) == []


@pytest.mark.parametrize(
    ("entry", "mode", "message"),
    [
        ("../../evil", 0o100644, "the entry '../../evil' is a link or leads out of the archive"),
        ("/evil", 0o100644, "is a link or leads out of the archive"),
        (TOOL, 0o120777, "is a link or leads out of the archive"),
        ("readme.txt", 0o100644, "is no QAIRT SDK for Linux: 0 folders bin/x86_64-linux-clang, expected one"),
    ],
)
def test_a_wrong_archive(entry: str, mode: int, message: str, tmp_path: Path) -> None:
    sha256 = archive(tmp_path / "sdk.zip", entry, mode=mode)
    done = unpack((tmp_path / "sdk.zip").as_uri(), sha256, tmp_path / "qairt")
    assert done.returncode == images.QairtArchiveError.exit_code
    assert message in done.stdout
    assert done.stdout.count("\n") == 1
    assert list((tmp_path / "qairt").iterdir()) == []


def test_an_archive_of_another_hash(tmp_path: Path) -> None:
    sha256 = archive(tmp_path / "sdk.zip", TOOL)
    done = unpack((tmp_path / "sdk.zip").as_uri(), "0" * 64, tmp_path / "qairt")
    assert f"has SHA-256 {sha256}, expected {'0' * 64}" in done.stdout
    assert "and none was given" in unpack((tmp_path / "sdk.zip").as_uri(), "", tmp_path / "q2").stdout


def test_no_zip_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "sdk.zip").write_text("no zip")
    sha256 = hashlib.sha256(b"no zip").hexdigest()
    assert "is no zip archive" in unpack((tmp_path / "sdk.zip").as_uri(), sha256, tmp_path / "a").stdout
    assert "is not in the build context" in unpack("other.zip", sha256, tmp_path / "b").stdout
    assert "cannot be downloaded" in unpack((tmp_path / "x.zip").as_uri(), sha256, tmp_path / "c").stdout


@pytest.mark.parametrize(
    ("sha256", "message"), [("0" * 64, "has SHA-256"), (None, "no such file")], ids=["hash", "missing"]
)
def test_a_local_archive_is_checked_before_the_build(
    sha256: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_docker(tmp_path, "echo 1", monkeypatch)
    path = tmp_path / ("sdk.zip" if sha256 else "none.zip")
    (tmp_path / "sdk.zip").write_text("other")
    assert images.main(["qnn", "--qairt", str(path), "--qairt-sha256", "0" * 64]) == 107
    assert message in capsys.readouterr().err
