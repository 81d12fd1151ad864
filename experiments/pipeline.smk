# The rules that experiments share. A Snakefile includes this file and asks for what it wants:
#
#   dataset/                data.yaml with absolute paths, card.json, coco/<split>.json
#   train/                  model.safetensors, history.csv, metrics.json
#   export/<head>/          float ONNX with recorded input and output
#   quant/<plan id>/        QDQ ONNX, AIMET encodings, recorded input and output
#   compile/<plan id>/      context binary, DLC, census of the NPU's operators
#   agree/, eval/, profile/ what the compiled artifact computes, scores and costs
#   choice.json, gates.json which plan ships, and the release gates' verdict on it
#   results.json, report.html
#   bundle/, bundle.zip     what goes to the device, once every gate is passed
#
# Every stage is one command of one package, run through stage.py, which keeps its log. A stage reruns when
# its inputs, its options, the source of its packages or the image that it runs in change.

import hashlib
import shlex
import sys
from pathlib import Path

HERE = Path(workflow.basedir).parent if Path(workflow.basedir).name.startswith("exp_") else Path(workflow.basedir)
REPO = HERE.parent
PLANS = config["plans"]
CANDIDATES = [i for i, plan in PLANS.items() if not plan["plan"].startswith("fp32")]  # what runs on the NPU
IMAGES = config.get("containers", {})  # with --containers: what each image holds, by name
PYTHON = "python" if IMAGES else shlex.quote(sys.executable)

sys.path.insert(0, str(HERE))
import containers
import mounts

# The image of a stage, the packages whose source it runs; every other stage is hexpath-deploy's.
STAGES = {
    "generate": ("ultralytics", ["data"]),
    "card": ("ultralytics", ["data"]),
    "train": ("ultralytics", ["models"]),
    "control": ("ultralytics", ["models"]),
    "export": ("ultralytics", ["models"]),
    "ptq": ("aimet", ["quant", "models"]),
    "qat": ("aimet", ["quant", "models"]),
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


def folder_of(wildcards):
    """Where a plan's ONNX lies: quantized ones under quant/, float ones are the exports themselves."""
    plan = PLANS[wildcards.id]
    return plan.get("export", f"export/{plan['head']}") if plan["method"] == "float" else f"quant/{wildcards.id}"


def plan_flags(wildcards):
    """Of `ptq:METHOD`, or of `qat:METHOD`: trained from that method's state."""
    plan = PLANS[wildcards.id]
    method = plan["method"].split(":")[1]
    return f"--plan {plan['plan']} --option head={plan['head']} --method {method}"


def npu_flags(wildcards):
    return "--fp16" if PLANS[wildcards.id]["plan"] == "fp16" else ""


wildcard_constraints:
    id="|".join(map(re.escape, PLANS)),


if config["dataset"]:
    DATA = config["dataset"]
    DATA_STATE = state(DATA)
else:
    DATA = "data/data.yaml"
    DATA_STATE = ""

    rule generate:
        output:
            directory("data"),
        params:
            options=flags(config["data"]),
            source=source("generate"),
        threads: workflow.cores
        shell:
            stage("generate") + "hexpath-data generate {output:q} {params.options}"


rule card:
    input:
        "data" if DATA == "data/data.yaml" else [],
    output:
        directory("dataset"),
    params:
        data=DATA,
        state=DATA_STATE,
        source=source("card"),
    threads: workflow.cores
    shell:
        stage("card") + "hexpath-data card {params.data:q} --out {output:q}"


if config.get("checkpoint"):

    rule take:
        # A model that was trained elsewhere, as hexpath-models wrote it.
        input:
            config["checkpoint"],
        output:
            directory("train"),
        shell:
            "mkdir -p {output:q} && cp -- {input:q} {output:q}/model.safetensors"

else:

    rule train:
        input:
            "dataset",
        output:
            directory("train"),
        params:
            model=config["model"],
            options=flags(config["train"]),
            source=source("train"),
        threads: workflow.cores
        resources:
            gpu=1,
        shell:
            stage("train")
            + "hexpath-models train --model {params.model:q} --data dataset/data.yaml --out {output:q}"
            " --work work/train {params.options}"


rule control:
    # The float model trained on, as long and as fast as QAT trains: what QAT is to be held against.
    input:
        "train",
    output:
        directory("control"),
    params:
        model=config["model"],
        options=flags(config.get("control", {})),
        source=source("control"),
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        stage("control")
        + "hexpath-models train --model {params.model:q} --data dataset/data.yaml --out {output:q} --work work/control"
        " --weights train/model.safetensors {params.options}"


rule export_control:
    input:
        "control",
    output:
        directory("export/control"),
    params:
        source=source("export"),
    shell:
        stage("export/control")
        + "hexpath-models export control/model.safetensors --data dataset/data.yaml --head raw --out {output:q}"


rule export:
    input:
        "train",
    output:
        directory("export/{head}"),
    wildcard_constraints:
        head="raw|decoded|plain",
    params:
        source=source("export"),
    shell:
        stage("export/{wildcards.head}")
        + "hexpath-models export train/model.safetensors --data dataset/data.yaml --head {wildcards.head}"
        " --out {output:q}"


rule ptq:
    input:
        "train",
    output:
        directory("quant/{id}"),
    wildcard_constraints:
        id=ids("ptq"),
    params:
        task=config["task"],
        plan=plan_flags,
        options=flags(config["ptq"]),
        source=source("ptq"),
    shell:
        stage("ptq/{wildcards.id}")
        + "hexpath-quant ptq --task {params.task:q} --checkpoint train/model.safetensors --data dataset/data.yaml"
        " --out {output:q} {params.plan} {params.options}"


rule qat:
    input:
        "train",
    output:
        directory("quant/{id}"),
    wildcard_constraints:
        id=ids("qat"),
    params:
        task=config["task"],
        plan=plan_flags,
        options=flags(config["ptq"] | config["qat"]),
        source=source("qat"),
    threads: max(1, workflow.cores // 2)  # half of it is one core's work anyway: two trainings side by side
    resources:
        gpu=int(config["qat"]["device"] != "cpu"),
    shell:
        stage("qat/{wildcards.id}")
        + "hexpath-quant qat --task {params.task:q} --checkpoint train/model.safetensors --data dataset/data.yaml"
        " --out {output:q} --work work/qat/{wildcards.id} {params.plan} {params.options}"


rule compile:
    input:
        folder_of,
    output:
        directory("compile/{id}"),
    params:
        target=config["target"],
        npu=npu_flags,
        source=source("compile"),
    shell:
        stage("compile/{wildcards.id}")
        + "hexpath-deploy compile {input:q}/model.onnx --target {params.target:q} --out {output:q} {params.npu}"


rule agree:
    input:
        model=folder_of,
        compiled="compile/{id}",
    output:
        "agree/{id}.json",
    params:
        options=flags(config["agree"]),
        source=source("agree"),
    shell:
        stage("agree/{wildcards.id}")
        + "hexpath-deploy agree {input.model:q}/model.onnx --compiled {input.compiled:q}"
        " --recorded {input.model:q}/recorded.npz --out {output:q} {params.options}"


rule evaluate_ort:
    input:
        model=folder_of,
    output:
        "eval/{id}-ort.json",
    params:
        source=source("ort"),
    shell:
        stage("ort/{wildcards.id}")
        + "hexpath-deploy evaluate {input.model:q}/model.onnx --coco dataset/coco/val.json --out {output:q}"
        " --backend ort"


rule evaluate_emulator:
    input:
        model=folder_of,
        compiled="compile/{id}",
        agree="agree/{id}.json",
    output:
        "eval/{id}-emulator.json",
    params:
        options=flags(config["emulator"]),
        source=source("emulator"),
    threads: workflow.cores
    shell:
        stage("emulator/{wildcards.id}")
        + "hexpath-deploy evaluate {input.model:q}/model.onnx --coco dataset/coco/val.json --out {output:q}"
        " --backend emulator --compiled {input.compiled:q} --workers {threads} {params.options}"


rule profile:
    input:
        model=folder_of,
    output:
        "profile/{id}.json",
    params:
        target=config["target"],
        npu=npu_flags,
        source=source("profile"),
    shell:
        stage("profile/{wildcards.id}")
        + "hexpath-deploy profile {input.model:q}/model.onnx --target {params.target:q} --out {output:q} {params.npu}"


RELEASE = f"{PYTHON} {shlex.quote(str(HERE / 'release.py'))}"


rule choose:
    # The plan that ships: the fastest whose artifact agrees and loses no more than release.max_loss.
    input:
        ort=expand("eval/{id}-ort.json", id=PLANS),
        emulator=expand("eval/{id}-emulator.json", id=CANDIDATES),
        profile=expand("profile/{id}.json", id=CANDIDATES),
        agree=expand("agree/{id}.json", id=CANDIDATES),
        told=HERE / "release.py",
    output:
        "choice.json",
    params:
        release=config.get("release"),
        source=source("choose"),
    shell:
        stage("choose") + RELEASE + " choose --out {output:q}"


rule gate:
    # The verdict is a file; it ends the run only after the report is there (rule verdict).
    input:
        "choice.json",
        expand("compile/{id}", id=CANDIDATES),
        config.get("release", {}).get("gates") or [],
        config.get("release", {}).get("meta") or [],
    output:
        "gates.json",
    params:
        release=config.get("release"),
        source=source("gate"),
    shell:
        stage("gate") + RELEASE + " gate --out {output:q}"


rule verdict:
    # Fails, with one line that names the gates, unless all are passed.
    input:
        gates="gates.json",
        report="report.html",
        log="logs/wandb.done",
    output:
        touch("logs/verdict.done"),
    params:
        source=source("verdict"),
    shell:
        stage("verdict") + "hexpath-deploy gate --judged {input.gates:q}"


rule bundle:
    input:
        "logs/verdict.done",
        choice="choice.json",
        report="report.html",
    output:
        directory("bundle"),
        "bundle.zip",
    params:
        release=config.get("release"),
        source=source("bundle"),
    shell:
        stage("bundle") + RELEASE + " bundle --out bundle"
