"""Build the images of images.toml, and try each one: `nox -s images [-- NAME ...]`.

A build sees a temporary folder with the Dockerfile, the lock, the wheels and the smoke test, and nothing
else: no secret, no dataset and no unlocked file can enter a layer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "experiments"))

import containers  # noqa: E402
import record  # noqa: E402
from containers import ContainerError, docker  # noqa: E402

DOCKER = REPO / "docker"
URL = "https://github.com/hexpath/hexpath"
QAIRT_SAYS = re.compile(r"^qairt: error: (.*)$", re.MULTILINE)


class BaseMissingError(ContainerError):
    """The base image is neither here nor in a registry that can be reached."""

    exit_code = 105


class HashMismatchError(ContainerError):
    """A file of the index is not the one that the lock pins."""

    exit_code = 106


class QairtArchiveError(ContainerError):
    """The QAIRT archive is not there, not the announced one, or no SDK."""

    exit_code = 107


class BuildError(ContainerError):
    """The build failed otherwise."""

    exit_code = 108


class SmokeError(ContainerError):
    """The image is built, but does not do its work."""

    exit_code = 109


class TagError(ContainerError):
    """A release tag that belongs to no package, or not to its version."""

    exit_code = 110


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        if args.route is not None:
            print(route(args.route))
            return 0
        containers.check_engine()
        if args.pins:
            write_digest()
            return 0
        check_qairt(args)
        facts = containers.images_toml()
        base = find_base(facts["base"])
        for name in args.names or facts["images"]:
            make(name, facts["images"][name], base=base, args=args)
    except ContainerError as error:
        print(f"images: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="images.py", description=__doc__.splitlines()[0] if __doc__ else "")
    known = list(containers.images_toml()["images"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)} (default: all)")
    parser.add_argument("--network", help="of the build, as in docker build --network")
    parser.add_argument("--qairt", metavar="ARCHIVE", help="path or URL of Qualcomm's SDK, for the qnn image")
    parser.add_argument("--qairt-sha256", metavar="HEX", help="its SHA-256")
    parser.add_argument("--pins", action="store_true", help="write the base's newest digest to images.toml")
    parser.add_argument("--route", metavar="TAG", help="print which package and images a release tag is for")
    parser.add_argument("--uv", default="uv", help="the uv command, which builds the wheels")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in known:
            parser.error(f"unknown image {name!r}; there are: {', '.join(known)}")
    if args.qairt and not args.qairt_sha256:
        parser.error("--qairt wants --qairt-sha256 beside it")
    return args


def route(tag: str) -> str:
    """What a tag such as quant-v0.2.0 releases, as lines for a workflow; without a tag, every image.

    Raises:
        TagError: no such package, or a version that its pyproject.toml does not have.
    """
    images = containers.images_toml()["images"]
    if not tag:
        return f"package=\nimages={json.dumps(list(images))}"
    package, _, version = tag.partition("-v")
    known = sorted({p for facts in images.values() for p in facts["packages"]})
    if package not in known:
        raise TagError(f"tag {tag!r} is no release: PACKAGE-vVERSION, with one of {', '.join(known)}")
    if version != containers.package_version(package):
        raise TagError(f"tag {tag!r}, but packages/{package} is {containers.package_version(package)}")
    chosen = [name for name, facts in images.items() if package in facts["packages"]]
    return f"package={package}\nimages={json.dumps(chosen)}"


# --- before the build -----------------------------------------------------------------------------------


def find_base(base: dict[str, str]) -> str:
    """The reference for FROM, after making sure that the engine has it or gets it."""
    reference = f"{base['image']}:{base['tag']}" + (f"@{base['digest']}" if base["digest"] else "")
    try:
        docker("image", "inspect", reference)
    except ContainerError:
        try:
            docker("pull", "--quiet", reference)
        except ContainerError as error:
            raise BaseMissingError(
                f"the base image {reference} is not here and cannot be pulled ({error})"
            ) from None
    return reference


def write_digest() -> None:
    """Resolve the base's tag with its registry and write the digest to images.toml."""
    base = containers.images_toml()["base"]
    reference = f"{base['image']}:{base['tag']}"
    try:
        docker("pull", "--quiet", reference)
    except ContainerError as error:
        raise BaseMissingError(f"{reference} cannot be resolved, the pin stays as it is ({error})") from None
    digests = docker("image", "inspect", "--format", '{{join .RepoDigests " "}}', reference).split()
    if not digests:
        raise BaseMissingError(f"the registry gave no digest of {reference}, the pin stays as it is")
    digest = digests[0].partition("@")[2]
    text = re.sub(r'^digest = ".*"$', f'digest = "{digest}"', containers.IMAGES_TOML.read_text(), flags=re.M)
    containers.IMAGES_TOML.write_text(text)
    print(f"{reference} is {digest}")


def check_qairt(args: argparse.Namespace) -> None:
    """A local archive is checked before the build; one behind a URL inside of it."""
    if not args.qairt or "://" in args.qairt:
        return
    path = Path(args.qairt)
    if not path.is_file():
        raise QairtArchiveError(f"--qairt {path}: no such file")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != args.qairt_sha256.lower():
        raise QairtArchiveError(f"{path} has SHA-256 {found}, expected {args.qairt_sha256}")


# --- one image ------------------------------------------------------------------------------------------


def make(name: str, facts: dict[str, Any], *, base: str, args: argparse.Namespace) -> None:
    """Context, build, smoke test, and a line with what came out."""
    start = time.monotonic()
    tag = containers.tag_of(name)
    with tempfile.TemporaryDirectory(prefix="hexpath-image-") as scratch:
        qairt = fill_context(Path(scratch), name, facts, args=args)
        build(Path(scratch), build_arguments(name, facts, base=base, qairt=qairt, args=args))
    built_s = time.monotonic() - start
    said = smoke(tag)
    size_mb = int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6
    print(f"{said}\n{tag}: {size_mb:.0f} MB, built in {built_s:.0f} s", flush=True)


def fill_context(folder: Path, name: str, facts: dict[str, Any], *, args: argparse.Namespace) -> str:
    """Put together what the build may see; returns the build argument QAIRT."""
    shutil.copyfile(DOCKER / f"{name}.Dockerfile", folder / "Dockerfile")
    (folder / "requirements.txt").write_text(without_comments(DOCKER / "locks" / f"{name}.txt"))
    shutil.copyfile(DOCKER / "smoke" / f"{name}.py", folder / "smoke.py")
    for package in facts["packages"]:
        source = str(REPO / "packages" / package)
        line = [args.uv, "build", "--quiet", "--wheel", "--no-create-gitignore"]
        subprocess.run([*line, "--out-dir", str(folder / "wheels"), source], check=True)
    if name != "qnn":
        return ""
    (folder / "qairt").mkdir()
    shutil.copyfile(DOCKER / "qairt" / "unpack.py", folder / "qairt" / "unpack.py")
    if not args.qairt or "://" in args.qairt:
        return args.qairt or ""
    link_or_copy(Path(args.qairt).resolve(), folder / "qairt" / "sdk.zip")
    return "sdk.zip"


def without_comments(lock: Path) -> str:
    """A lock as pip reads it: one made again to the same pins builds no layer again."""
    lines = lock.read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if not line.lstrip().startswith("#"))


def link_or_copy(source: Path, target: Path) -> None:
    """The SDK has gigabytes: a hard link where the file system allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def build_arguments(
    name: str, facts: dict[str, Any], *, base: str, qairt: str, args: argparse.Namespace
) -> list[str]:
    """The options of `docker build`."""
    tag = containers.tag_of(name)
    line = ["--tag", tag, "--tag", f"hexpath/{name}:latest", "--build-arg", f"BASE={base}"]
    for key, value in labels(name, facts, base=base).items():
        line += ["--label", f"{key}={value}"]
    if qairt:
        line += ["--build-arg", f"QAIRT={qairt}", "--build-arg", f"QAIRT_SHA256={args.qairt_sha256}"]
    return line + (["--network", args.network] if args.network else [])


def labels(name: str, facts: dict[str, Any], *, base: str) -> dict[str, str]:
    """OCI annotations, the versions inside, and the fingerprints of the packages' sources."""
    oci = {
        "title": facts["title"],
        "source": URL,
        "revision": record.commit(),
        "version": containers.tag_of(name).partition(":")[2],
        "licenses": facts["licenses"],
        "base.name": base.partition("@")[0],
        "base.digest": base.partition("@")[2],
    }
    versions = containers.pins(name)
    tools = {tool: versions[tool] for tool in record.TOOLS if tool in versions}
    tools |= {f"hexpath-{package}": containers.package_version(package) for package in facts["packages"]}
    own = {
        containers.LABEL_TOOLS: json.dumps(tools),
        containers.LABEL_SOURCE: json.dumps({p: containers.source(p) for p in facts["packages"]}),
    }
    return {f"org.opencontainers.image.{key}": value for key, value in oci.items() if value} | own


def build(context: Path, arguments: list[str]) -> None:
    """Run docker build, showing what it says.

    Raises:
        HashMismatchError, QairtArchiveError, BuildError.
    """
    line = ["docker", "build", *arguments, str(context)]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    said = []
    for text in process.stdout:
        said.append(text)
        sys.stderr.write(text)
    if process.wait():
        raise build_failure("".join(said))


def build_failure(said: str) -> ContainerError:
    """What went wrong, from the build's output."""
    if found := QAIRT_SAYS.search(said):
        return QairtArchiveError(found[1])
    if "DO NOT MATCH THE HASHES" in said:
        which = re.search(r"^\s*(\S+) from \S+.*?:?$\s*Expected sha256", said, re.MULTILINE)
        return HashMismatchError(
            f"{which[1] if which else 'a requirement'} is not the file that the lock pins: "
            "somebody changed it, or the lock is out of date (nox -s lock)"
        )
    last = [text.strip() for text in said.splitlines() if text.strip()][-1:]
    return BuildError(f"the build failed: {' '.join(last) or 'it said nothing'}")


def smoke(tag: str) -> str:
    """Run the image's own test without a network; returns the line that it printed.

    Raises:
        SmokeError: it failed.
    """
    try:
        return docker("run", "--rm", "--network", "none", tag, "python", "/opt/hexpath/smoke.py")
    except ContainerError as error:
        raise SmokeError(f"{tag} does not work: {str(error)[-600:]}") from None


if __name__ == "__main__":
    sys.exit(main())
