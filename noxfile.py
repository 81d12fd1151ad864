"""Every command of the house: `nox -l` lists them.

One environment serves the experiments, the tests across packages and the benchmarks; each package's own
tests run in an environment with that package's declared dependencies only. Versions come from the lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import nox

HERE = Path(__file__).resolve().parent
PACKAGES = ("data", "models", "quant", "deploy")
LOCKS = HERE / "docker" / "locks"
UV = "uv==0.13.8"

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]


def uv(session: nox.Session) -> str:
    """The uv command: the one on PATH, or one installed beside the environments."""
    found = shutil.which("uv")
    if found:
        return found
    home = HERE / ".nox" / "uv"
    if not (home / "bin" / "uv").exists():
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(home), silent=True)
        session.run(str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", UV)
    return str(home / "bin" / "uv")


def environment(session: nox.Session, name: str, *installs: list[str], watch: list[Path]) -> Path:
    """An environment under .nox, remade when one of the watched files changes; returns its bin folder."""
    home = HERE / ".nox" / name
    state = hashlib.sha256(b"".join(p.read_bytes() for p in [Path(__file__), *watch])).hexdigest()
    stamp = home / ".hexpath"
    if not stamp.exists() or stamp.read_text() != state:
        tool = uv(session)
        session.run(tool, "venv", "--quiet", "--clear", "--python", sys.executable, str(home))
        # Where Python may not cache bytecode, every process would compile all that it imports.
        once = ["--compile-bytecode"] if sys.dont_write_bytecode else []
        for install in installs:
            session.run(
                tool, "pip", "install", "--quiet", *once, "--python", str(home / "bin" / "python"), *install
            )
        stamp.write_text(state)
    return home / "bin"


def pyproject(package: str) -> Path:
    return HERE / "packages" / package / "pyproject.toml"


def house(session: nox.Session) -> Path:
    """The one environment with all four packages, exactly as locked, every file checked by its hash."""
    lock = LOCKS / "hexpath.txt"
    editable = [arg for p in PACKAGES for arg in ("--editable", str(HERE / "packages" / p))]
    return environment(
        session,
        "hexpath",
        ["--require-hashes", "--requirements", str(lock)],
        ["--no-deps", *editable],
        watch=[lock, *map(pyproject, PACKAGES)],
    )


def run_experiment(session: nox.Session, name: str, *, arguments: list[str]) -> None:
    bin_folder = house(session)
    session.run(str(bin_folder / "python"), "experiments/run.py", name, *arguments)


def experiment_sessions() -> None:
    """One session a folder experiments/exp_*; its docstring is the first heading of its README."""
    for folder in sorted((HERE / "experiments").glob("exp_*")):

        def session_function(session: nox.Session, name: str = folder.name) -> None:
            run_experiment(session, name, arguments=session.posargs)

        title = (folder / "README.md").read_text().splitlines()[0].lstrip("# ")
        session_function.__doc__ = title
        nox.session(session_function, name=folder.name)


experiment_sessions()


@nox.session
@nox.parametrize("suite", [nox.param(s, id=s) for s in (*PACKAGES, "house")])
def tests(session: nox.Session, suite: str) -> None:
    """Each package's tests with its own dependencies only, then the tests across packages."""
    if suite == "house":
        bin_folder, folder = house(session), HERE
    else:
        folder = HERE / "packages" / suite
        lock = LOCKS / "hexpath.txt"
        install = ["--constraint", str(lock), "--editable", f"{folder}[test]"]
        bin_folder = environment(session, f"tests-{suite}", install, watch=[lock, pyproject(suite)])
    session.chdir(folder)
    session.run(str(bin_folder / "python"), "-m", "pytest", "tests", *session.posargs, env=test_env())


def test_env() -> dict[str, str]:
    """Tests never reach out, and find the shared study material where it lies beside the checkout."""
    shared = os.environ.get("HEXPATH_SHARED", str(HERE.parent / "shared"))
    return {"HEXPATH_SHARED": shared, "WANDB_MODE": "offline", "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}


@nox.session
def lint(session: nox.Session) -> None:
    """ruff (lint, format), mypy, and the contract that no package imports another."""
    lock = LOCKS / "lint.txt"
    bin_folder = environment(session, "lint", ["--require-hashes", "--requirements", str(lock)], watch=[lock])
    sources = [str(HERE / "packages" / p / "src") for p in PACKAGES]
    session.run(str(bin_folder / "ruff"), "check", ".")
    session.run(str(bin_folder / "ruff"), "format", "--check", ".")
    session.run(
        str(bin_folder / "mypy"),
        *sources,
        "experiments",
        "docker",
        env={"MYPYPATH": os.pathsep.join(sources)},
    )
    session.run(str(bin_folder / "lint-imports"), env={"PYTHONPATH": os.pathsep.join(sources)})


@nox.session
def lock(session: nox.Session) -> None:
    """Remake the hash-pinned requirements in docker/locks from what the packages declare."""
    projects = [str(pyproject(p).relative_to(HERE)) for p in PACKAGES]
    compile_lock(session, "hexpath", ["docker/locks/hexpath.in", *projects], "--all-extras")
    compile_lock(session, "lint", ["docker/locks/lint.in"])
    for image, facts in images_toml()["images"].items():
        projects = [str(pyproject(p).relative_to(HERE)) for p in facts["packages"]]
        # The same versions as the local environment's, so that a stage computes the same in its image.
        compile_lock(session, image, projects, "--extra", "wandb", "--constraint", "docker/locks/hexpath.txt")


def images_toml() -> dict[str, Any]:
    return tomllib.loads((HERE / "docker" / "images.toml").read_text())


def compile_lock(session: nox.Session, name: str, inputs: list[str], *extra: str) -> None:
    """uv writes the lock; a line with the hash of the declared requirements tells when it is out of date."""
    options = [
        "--universal",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--python-version",
        "3.11",
    ]
    header = ["--custom-compile-command", "nox -s lock", "--quiet"]
    session.run(
        uv(session),
        "pip",
        "compile",
        *options,
        *header,
        *extra,
        *inputs,
        "--output-file",
        f"docker/locks/{name}.txt",
    )
    lock_file = LOCKS / f"{name}.txt"
    lock_file.write_text(
        f"# inputs: {requirements_hash([HERE / i for i in inputs])}\n" + lock_file.read_text()
    )


def requirements_hash(inputs: list[Path]) -> str:
    """Over what is declared, so that a new version number or comment changes nothing."""
    declared: list[str] = []
    for path in inputs:
        if path.suffix == ".toml":
            meta = tomllib.loads(path.read_text())["project"]
            extras = sorted(meta.get("optional-dependencies", {}).items())
            declared += meta["dependencies"] + [f"{k}:{v}" for k, v in extras]
        else:
            declared += [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return hashlib.sha256("\n".join(filter(None, declared)).encode()).hexdigest()[:16]


@nox.session
def wheels(session: nox.Session) -> None:
    """Build a wheel and an sdist of each package into dist/."""
    shutil.rmtree(HERE / "dist", ignore_errors=True)
    for package in PACKAGES:
        build(session, package)
    session.log("\n" + "\n".join(sorted(p.name for p in (HERE / "dist").iterdir())))


def build(session: nox.Session, package: str) -> Path:
    """Build a package into dist/ and return its wheel."""
    tool, dist = uv(session), HERE / "dist"
    session.run(
        tool, "build", "--quiet", "--no-create-gitignore", "--out-dir", str(dist), f"packages/{package}"
    )
    version = tomllib.loads(pyproject(package).read_text())["project"]["version"]
    return dist / f"hexpath_{package}-{version}-py3-none-any.whl"


@nox.session
@nox.parametrize("package", [nox.param(p, id=p) for p in PACKAGES])
def standalone(session: nox.Session, package: str) -> None:
    """Each package's wheel in an empty environment, then the package from a git URL, with nothing of ours."""
    tool, home, name = uv(session), HERE / ".nox" / f"standalone-{package}", f"hexpath-{package}"
    python = str(home / "bin" / "python")
    wheel = build(session, package)
    session.run(tool, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, str(home))
    locked = ["--constraint", str(LOCKS / "hexpath.txt")]
    session.run(
        tool, "pip", "install", "--quiet", "--python", python, *locked, f"{name}[test] @ {wheel.as_uri()}"
    )
    only_itself(session, home, name)
    session.chdir(HERE / "packages" / package)
    session.run(python, "-m", "pytest", "tests", *session.posargs, env=test_env())
    session.chdir(HERE)
    with tempfile.TemporaryDirectory() as scratch:
        session.run("git", "clone", "--quiet", str(HERE), f"{scratch}/clone", external=True)
        url = f"{name} @ git+file://{scratch}/clone#subdirectory=packages/{package}"
        session.run(python, "-m", "pip", "uninstall", "--quiet", "--yes", name)
        session.run(python, "-m", "pip", "install", "--quiet", url)
    only_itself(session, home, name)


def only_itself(session: nox.Session, home: Path, name: str) -> None:
    """The package is there, imports and shows its help from any folder, and is the only one of ours."""
    code = f"""
import importlib.metadata, pathlib, {name.replace("-", "_")} as package
found = sorted(d.name for d in importlib.metadata.distributions() if d.name.startswith("hexpath"))
assert found == [{name!r}], found
assert pathlib.Path(package.__file__).is_relative_to({str(home)!r}), package.__file__
"""
    session.run(str(home / "bin" / "python"), "-P", "-c", code)
    session.run(str(home / "bin" / name), "--help", silent=True)
    session.log(f"{name} stands alone in {home.name}")


@nox.session
def images(session: nox.Session) -> None:
    """Build the Docker images and try each one; `-- qnn` builds one, `-- --help` lists the options."""
    session.run(sys.executable, "docker/images.py", "--uv", uv(session), *session.posargs)


@nox.session(tags=["update"])
def pins(session: nox.Session) -> None:
    """Write the newest digest of the images' base to docker/images.toml."""
    session.run(sys.executable, "docker/images.py", "--pins")


@nox.session(tags=["update"])
def fidelity(session: nox.Session) -> None:
    """Compare estimates with published latencies again; writes the table that hexpath-deploy quotes."""
    bin_folder, work = house(session), HERE / ".nox" / "fidelity"
    models, found = work / "models", work / "measured.json"
    script = ["experiments/fidelity.py", str(models), "--work", str(work / "work")]
    session.run(str(bin_folder / "python"), *script, env=test_env())
    options = ["--models", str(models), "--out", str(found), "--cache", str(work / "cache")]
    session.run(str(bin_folder / "hexpath-deploy"), "fidelity", *options)
    shutil.copyfile(found, HERE / "packages/deploy/src/hexpath_deploy/fidelity/measured.json")


LONG_BENCHES = ("sensitivity", "zoo", "scales")  # more than a few minutes: only when named


@nox.session
def bench(session: nox.Session) -> None:
    """Against the peers, as ratios measured in one run: `-- NAME` runs one of packages/*/bench/NAME.py."""
    bin_folder = house(session)
    named = [a for a in session.posargs if not a.startswith("--")]
    options = [a for a in session.posargs if a.startswith("--")]  # such as --plan=w4a8
    scripts = {script.stem: script for script in sorted(HERE.glob("packages/*/bench/*.py"))}
    for unknown in set(named) - set(scripts):
        session.error(f"no benchmark {unknown!r}; there are {', '.join(scripts)}")
    for name in named or [name for name in scripts if name not in LONG_BENCHES]:
        inputs = bench_inputs(session, bin_folder, name=name, options=options)
        session.run(str(bin_folder / "python"), str(scripts[name]), *inputs, *options, env=test_env())


def bench_inputs(session: nox.Session, bin_folder: Path, *, name: str, options: list[str]) -> list[str]:
    """What a benchmark works on, made first where it is missing."""
    if name == "scales":
        return []
    if name == "qnn":
        if any(option.startswith("--run") for option in options):
            return []
        run_experiment(session, "exp_01_baselines", arguments=[])  # nothing to do when it is up to date
        return ["--run", str(HERE / "runs" / "exp_01_baselines" / "default")]
    work, trained = HERE / ".nox" / "bench", HERE / "runs" / "exp_04_sensitivity" / "default"
    if name == "sensitivity" and (trained / "train").exists():
        work = trained  # which layers are worst means nothing on a net that has learned nothing
    elif not (work / "train" / "model.safetensors").exists():
        detector(session, bin_folder, work)  # any YOLO11n: a step takes as long whatever it has learned
    checkpoint, data = work / "train" / "model.safetensors", work / "dataset" / "data.yaml"
    return ["--checkpoint", str(checkpoint), "--data", str(data)]


def detector(session: nox.Session, bin_folder: Path, work: Path) -> None:
    """A dataset and a YOLO11n of one epoch for the benchmarks."""
    run = {name: str(bin_folder / f"hexpath-{name}") for name in PACKAGES}
    data, card = str(work / "data"), str(work / "dataset")
    session.run(run["data"], "generate", data, "--train", "32", "--val", "8")
    session.run(run["data"], "card", f"{data}/data.yaml", "--out", card)
    out = ("--out", str(work / "train"), "--work", str(work / "work"))
    session.run(run["models"], "train", "--data", f"{card}/data.yaml", *out, "--epochs", "1")
