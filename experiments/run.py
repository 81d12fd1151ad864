"""Run one numbered experiment: resolve its config, then let Snakemake make what is missing.

    python experiments/run.py exp_03_qat [KEY=VALUE ...] [--name N] [--full] [--data F] [--target T]

`nox -s exp_03_qat -- ...` calls this. A run lives in `runs/<experiment>/<name>/`; a new name starts from
hard links of the `default` run, so that only what its parameters change is made again.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

import containers
import matrix
import record
from containers import ContainerError, Image
from display import Display
from mounts import mounts_of

REPO = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPO / "experiments"
OFFLINE = {"YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_SILENT": "true"}


class RunError(Exception):
    """A request that cannot be run; the message says what to change."""

    exit_code: ClassVar[int] = 3


class ParameterError(RunError):
    """A parameter that the experiment does not have, or a value of the wrong type."""

    exit_code = 4


class BusyError(RunError):
    """Another process is working in the same run folder."""

    exit_code = 5


class StageError(RunError):
    """A stage failed; carries that command's own exit code."""

    def __init__(self, message: str, *, exit_code: int, stage: str = "") -> None:
        super().__init__(message)
        self.code, self.stage = exit_code, stage


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        config = resolve(args)
        if args.print_config:
            print(yaml.safe_dump(config, sort_keys=False), end="")
            return 0
        check_target(config["target"])
        images = find_images() if args.containers else {}
        if images:
            config["containers"] = {name: image.digest for name, image in images.items()}
        run = REPO / "runs" / args.experiment / args.name
        with claimed(run):
            seed_from(run.parent / args.base, run)
            write_config(run, config)
            try:
                execute(args, run, env=environment(args, run) | containment(config, images, run=run))
            except StageError as error:
                if error.stage == "verdict":  # gates failed: everything but the bundle is there
                    report(run)
                raise
            report(run)
    except StageError as error:
        print(f"{args.experiment}: {error}", file=sys.stderr)
        return error.code
    except (RunError, ContainerError) as error:
        print(f"{args.experiment}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{args.experiment}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=experiments())
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="a parameter of config.yaml, e.g. qat.epochs=3"
    )
    parser.add_argument("--name", default="default", help="name of the run folder")
    parser.add_argument("--base", default="default", help="run that a new name starts from")
    parser.add_argument("--full", action="store_true", help="the study at its real size (full.yaml)")
    parser.add_argument("--data", metavar="FILE", help="your data.yaml in Ultralytics format")
    parser.add_argument("--target", help="a name of `hexpath-deploy targets`")
    parser.add_argument("--models", metavar="NAME,NAME", help="these models, of an experiment that compares")
    parser.add_argument(
        "--plans", metavar="ID,ID", help="only these plans of config.yaml (fp32 is always there)"
    )
    parser.add_argument(
        "--containers", action="store_true", help="run every stage inside its image (nox -s images)"
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--dry-run", action="store_true", help="say which stages would run, why, and their commands"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    args = parser.parse_intermixed_args(argv)
    if not args.name or not all(c.isalnum() or c in "._-" for c in args.name) or args.name.startswith("."):
        parser.error(f"--name {args.name!r}: letters, digits, '.', '_' and '-' only, not starting with '.'")
    return args


def experiments() -> list[str]:
    return sorted(p.parent.name for p in EXPERIMENTS.glob("exp_*/Snakefile"))


# --- config ---------------------------------------------------------------------------------------------


def resolve(args: argparse.Namespace) -> dict[str, Any]:
    """config.yaml, then full.yaml, then the command line; unknown keys and wrong types are errors."""
    folder = EXPERIMENTS / args.experiment
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if args.full:
        merge(config, yaml.safe_load((folder / "full.yaml").read_text()), where="full.yaml")
    for override in args.overrides:
        key, sep, value = override.partition("=")
        if not sep:
            raise ParameterError(f"{override!r} is not KEY=VALUE, e.g. qat.epochs=3")
        merge(config, nested(key.split("."), scalar(value)), where="the command line")
    if args.data:
        config["dataset"] = str(existing(args.data))
    for group, key in (
        (config, "checkpoint"),
        (config.get("release", {}), "gates"),
        (config.get("release", {}), "meta"),
    ):
        if group.get(key):
            wanted = "a .pt or model.safetensors file" if key == "checkpoint" else "its path"
            group[key] = str(existing(group[key], what=key, wanted=wanted))
    if args.models:
        merge(config, {"models": args.models}, where="--models")
    if config.get("models"):
        config["models"] = ",".join(
            str(existing(entry, what="models", wanted="a .pt file"))
            if entry.endswith(matrix.FILES)
            else entry
            for entry in str(config["models"]).split(",")
        )
    if args.target:
        config["target"] = args.target
    config["plans"] |= matrix.swept(config.get("sweeps", []))
    if args.plans:
        config["plans"] = chosen(config["plans"], args.plans.split(","))
    if config.get("checkpoint") and not args.plans:  # taken as it is: no training unless a plan asks for it
        config["plans"] = {i: plan for i, plan in config["plans"].items() if not trains(plan)}
    config["plans"] = {i: plan for i, plan in config["plans"].items() if args.plans or not plan.get("extra")}
    config |= {"experiment": args.experiment, "name": args.name, "command": command_line(args)}
    return config


def command_line(args: argparse.Namespace) -> str:
    """The command that makes this run again."""
    words = list(args.overrides)
    words += [
        f"--{key}={getattr(args, key)}" for key in ("data", "target", "models", "plans") if getattr(args, key)
    ]
    words += ["--full"] * args.full + ["--containers"] * args.containers
    words += [f"--name={args.name}"] * (args.name != "default")
    return " ".join(["nox -s", args.experiment, *(["--", shlex.join(words)] if words else [])])


def trains(plan: Mapping[str, Any]) -> bool:
    """Whether a plan trains the network on."""
    return str(plan["method"]).startswith("qat") or "control" in str(plan.get("export", ""))


def chosen(plans: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """The plans of that name, in the order of config.yaml, with the float model that they are compared to."""
    for name in wanted:
        if name not in plans:
            raise ParameterError(f"unknown plan {name!r} in --plans{nearest(name, plans)}")
    return {i: plan for i, plan in plans.items() if i == "fp32" or i in wanted}


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else f"; there are: {', '.join(known)}"


def scalar(text: str) -> Any:
    """A command-line value as YAML reads it, and 1e-4 as the number it is (YAML 1.1 wants 1.0e-4)."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def nested(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else nested(keys[1:], value)}


def merge(config: dict[str, Any], changes: Mapping[str, Any], *, where: str, path: str = "") -> None:
    for key, value in changes.items():
        name = f"{path}{key}"
        if key not in config:
            raise ParameterError(f"unknown parameter {name} in {where}{nearest(key, config, prefix=path)}")
        old = config[key]
        if isinstance(old, dict):
            if not isinstance(value, dict):
                raise ParameterError(
                    f"{name} is a group; set one of: {', '.join(f'{name}.{k}' for k in old)}"
                )
            merge(old, value, where=where, path=f"{name}.")
        elif not same_type(old, value):
            raise ParameterError(f"{name}={value!r} in {where}: expected {type(old).__name__}, like {old!r}")
        else:
            config[key] = value


def same_type(old: Any, new: Any) -> bool:
    if old is None:
        return new is None or (isinstance(new, str | int | float) and not isinstance(new, bool))
    if isinstance(old, float):
        return isinstance(new, int | float) and not isinstance(new, bool)
    return type(old) is type(new)


def existing(
    path: str, *, what: str = "--data", wanted: str = "the data.yaml of a dataset in Ultralytics format"
) -> Path:
    """The absolute path of a file that a parameter names."""
    resolved = Path(path).expanduser().resolve()
    if not resolved.is_file():
        raise RunError(f"{what} {path}: no such file; give {wanted}")
    return resolved


def check_target(target: str) -> None:
    """Ask hexpath-deploy, before any long work, whether it knows the target."""
    done = subprocess.run([tool("hexpath-deploy"), "targets", target], capture_output=True, text=True)
    if done.returncode:
        raise StageError(done.stderr.strip().splitlines()[-1], exit_code=done.returncode)


def tool(name: str) -> str:
    """A console command of the environment that runs this file."""
    return str(Path(sys.executable).with_name(name))


def write_config(run: Path, config: dict[str, Any]) -> None:
    """The resolved config; left untouched when equal, so that nothing reruns for its date."""
    path, text = run / "config.json", json.dumps(config, indent=1) + "\n"
    if not path.exists() or path.read_text() != text:
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(path)


# --- the run folder -------------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Hold the run folder, and end what a killed run left working in it."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{run} is in use by another run; wait for it, or use --name") from None
        end_orphans(run)
        yield


def end_orphans(run: Path) -> None:
    """Kill the process group of an earlier run whose parent is gone."""
    group_file = run / ".group"
    if not group_file.exists():
        return
    first, _, kind = group_file.read_text().partition(" ")
    group = int(first or 0)
    if group and any(works_in(pid, run) for pid in members(group)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        wait_until_gone(group)
    if kind:
        containers.end_containers(run)
    group_file.unlink()


def members(group: int) -> list[int]:
    pids = [int(p.name) for p in Path("/proc").glob("[0-9]*")] if Path("/proc").is_dir() else []
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == group:
                found.append(pid)
    return found


def works_in(pid: int, run: Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").resolve() == run
    return False


def wait_until_gone(group: int, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.05)


def seed_from(base: Path, run: Path) -> None:
    """A new run begins as hard links of the base run: finished stages count, nothing is copied.

    Work in progress and logs are the base's own. Stages replace their outputs and never write into them, so
    that links are safe; Snakemake rewrites its records in place, so those are copied.
    """
    if run == base or (run / ".snakemake").exists() or not (base / ".snakemake").exists():
        return
    own = {".lock", ".group", "work", "logs", "wandb", "config.json", "results.json", "report.html"}
    for entry in base.iterdir():
        if entry.name in own or entry.name.endswith(".partial"):
            continue
        if entry.is_dir():
            skip = shutil.ignore_patterns("*.partial", "log", "locks", "incomplete")
            shutil.copytree(
                entry, run / entry.name, copy_function=link_or_copy, ignore=skip, dirs_exist_ok=True
            )
        else:
            os.link(entry, run / entry.name)


def link_or_copy(source: str, target: str) -> None:
    if ".snakemake" in source:
        shutil.copy2(source, target)
    else:
        os.link(source, target)


# --- Snakemake ------------------------------------------------------------------------------------------


def command(args: argparse.Namespace, run: Path) -> list[str]:
    """The Snakemake command line of a run."""
    line = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(EXPERIMENTS / args.experiment / "Snakefile"),
    ]
    line += ["--directory", str(run), "--configfile", str(run / "config.json"), "--cores", str(args.cores)]
    line += ["--resources", "gpu=1", "--rerun-incomplete", "--nolock", "--nocolor"]
    return line + (["--dry-run", "--printshellcmds", "--quiet", "host"] if args.dry_run else [])


def environment(args: argparse.Namespace, run: Path) -> dict[str, str]:
    """The stages' environment: no library reaches out, W&B writes into the run folder."""
    env = dict(os.environ) | OFFLINE
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    env.setdefault("HEXPATH_ASSETS", str(REPO / "assets"))
    env["YOLO_CONFIG_DIR"] = str(run / "work" / "ultralytics")
    env.setdefault("WANDB_PROJECT", "hexpath")
    env |= {"WANDB_DIR": str(run), "WANDB_RUN_GROUP": f"{args.experiment}/{args.name}"}
    if not env.get("WANDB_API_KEY"):
        env.setdefault("WANDB_MODE", "offline")
    return env


def find_images() -> dict[str, Image]:
    """All images, found before any work begins."""
    containers.check_engine()
    return {name: containers.find_image(name) for name in containers.images_toml()["images"]}


def containment(config: Mapping[str, Any], images: Mapping[str, Image], *, run: Path) -> dict[str, str]:
    """What stage.py and record.py must be told when stages run in containers."""
    if not images:
        return {}
    tools = {name: version for image in images.values() for name, version in image.tools.items()}
    online = bool(os.environ.get("WANDB_API_KEY")) and os.environ.get("WANDB_MODE", "online") == "online"
    return {
        "HEXPATH_IMAGES": json.dumps({name: image.id for name, image in images.items()}),
        "HEXPATH_MOUNTS": json.dumps(mounts_of(config["dataset"], checkpoints=checkpoints(config))),
        "HEXPATH_NETWORK": str(int(online or bool(config["train"].get("pretrained")))),
        "HEXPATH_TOOLS": json.dumps(tools | {"snakemake": record.tools()["snakemake"]}),
        "HEXPATH_COMMIT": record.commit(),
        "HEXPATH_CACHE": str(run / "work" / "compiled"),  # a container writes into its run's folder only
    }


def checkpoints(config: Mapping[str, Any]) -> list[Path]:
    """The files that models are taken from."""
    return [Path(own["checkpoint"]) for own in matrix.models(config).values() if own["checkpoint"]]


def execute(args: argparse.Namespace, run: Path, *, env: Mapping[str, str]) -> None:
    """Run Snakemake in a process group of its own and show its progress."""
    (run / "logs").mkdir(exist_ok=True)
    if args.dry_run:
        subprocess.run(command(args, run), env=env, check=False)
        raise SystemExit(0)
    display = Display(title=f"{args.experiment}/{args.name}", log=run / "logs" / "snakemake.log")
    process = subprocess.Popen(
        command(args, run),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    (run / ".group").write_text(f"{process.pid} containers" if args.containers else str(process.pid))
    try:
        assert process.stdout is not None
        for line in process.stdout:
            display.feed(line)
        code = process.wait()
    except KeyboardInterrupt:
        stop(process)
        if args.containers:
            containers.end_containers(run)
        raise
    finally:
        display.close()
    (run / ".group").unlink(missing_ok=True)
    if code:
        raise failure(run, display)


def stop(process: subprocess.Popen[str]) -> None:
    """Let every stage clean up after a Ctrl-C, then make sure."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def failure(run: Path, display: Display) -> StageError:
    if not display.failed:
        return StageError(f"the pipeline failed; see {run}/logs/snakemake.log", exit_code=1)
    first = display.failed[0]
    message = f"stage {first.stage} failed: {first.message} [log: {first.log}]"
    return StageError(message, exit_code=first.code, stage=first.stage)


def report(run: Path) -> None:
    """The results table, and where the report lies."""
    sys.stderr.flush()
    subprocess.run([tool("hexpath-deploy"), "summary", str(run / "results.json")], check=True)
    print(f"\nreport   {run / 'report.html'}\nresults  {run / 'results.json'}")


def heed_signals() -> None:
    """Have SIGTERM (a job scheduler, `docker stop`) do what Ctrl-C does, in the background too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    heed_signals()
    sys.exit(main())
