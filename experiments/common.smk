# What every experiment's Snakefile needs, whatever its rules: where it runs, how a stage is started, what
# makes it run again, options as flags.

import hashlib
import shlex
import sys
from pathlib import Path

HERE = Path(workflow.basedir).parent if Path(workflow.basedir).name.startswith("exp_") else Path(workflow.basedir)
REPO = HERE.parent
sys.path.insert(0, str(HERE))
import containers
import matrix
import mounts

PLANS = config["plans"]
CANDIDATES = [i for i, plan in PLANS.items() if not plan["plan"].startswith("fp32")]  # what runs on the NPU
IMAGES = config.get("containers", {})  # with --containers: what each image holds, by name
PYTHON = "python" if IMAGES else shlex.quote(sys.executable)

# The image of a stage, the packages whose source it runs; every other stage is hexpath-deploy's.
STAGES = {
    "generate": ("ultralytics", ["data"]),
    "card": ("ultralytics", ["data"]),
    "select": ("ultralytics", ["data"]),
    "train": ("ultralytics", ["models"]),
    "control": ("ultralytics", ["models"]),
    "export": ("ultralytics", ["models"]),
    "ptq": ("aimet", ["quant", "models"]),
    "qat": ("aimet", ["quant", "models"]),
    "audit": ("aimet", ["quant", "models"]),
    "sensitivity": ("aimet", ["quant", "models"]),
}
DEPLOY = ("qnn", ["deploy"])
ONLINE = ("train", "control", "qat", "log")  # may use a network, when run.py found a reason: a W&B key, published weights


def stage(name):
    """The start of a stage's shell command; it decides whether the stage runs here or in its image."""
    line = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'stage.py'))} {name} --threads {{threads}}"
    kind = name.split("/")[0]
    if IMAGES:
        line += f" --image {STAGES.get(kind, DEPLOY)[0]}" + " --network" * (kind in ONLINE)
    return line + " -- "


def source(kind):
    """Fingerprint of what a stage runs: its packages' source, and its image when it runs in one."""
    image, packages = STAGES.get(kind, DEPLOY)
    return "".join(map(containers.source, packages)) + IMAGES.get(image, "")


def state(data_yaml):
    """Names, sizes and dates of a user's dataset: a changed image or label reruns the checks."""
    files = sorted({p for folder in mounts.dataset_folders(Path(data_yaml)) for p in folder.rglob("*")})
    rows = (f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files if p.is_file())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def flags(options):
    """A group of config.yaml as command-line options: {epochs: 3, pretrained: true} -> --epochs 3 --pretrained."""
    words = []
    for key, value in options.items():
        name = f"--{key.replace('_', '-')}"
        if value is True:
            words += [name]
        elif value is not False and value is not None:
            words += [name, shlex.quote(str(value))]
    return " ".join(words)


def ids(*methods):
    """A wildcard pattern for the plans whose method starts with one of `methods`."""
    found = [i for i, p in PLANS.items() if p["method"].split(":")[0] in methods]
    return "|".join(map(re.escape, found)) or "(?!)"
