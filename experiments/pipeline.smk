# The rules that experiments share. A Snakefile includes this file and asks for what it wants:
#
#   dataset/                data.yaml with absolute paths, card.json, coco/<split>.json of boxes
#   train/                  model.safetensors, history.csv, metrics.json
#   export/<head>/          float ONNX with recorded input and output
#   selection/<how>.txt     images to calibrate with, where a plan names a selection
#   quant/<plan id>/        QDQ ONNX, AIMET encodings, recorded input and output
#   compile/<plan id>/      context binary, DLC, census of the NPU's operators
#   agree/, eval/, profile/ what the compiled artifact computes, scores and costs
#   choice.json, gates.json which plan ships, and the release gates' verdict on it
#   masks/<plan id>-<where>/ class maps of a segmentation network
#   results.json, report.html
#   bundle/, bundle.zip     what goes to the device, once every gate is passed
#
# With several models (`models` in config.yaml) all but data, dataset and the results lies once a model, under
# models/<name>/: the wildcard {m} is that prefix, or empty in an experiment of one model.
#
# Every stage is one command of one package, run through stage.py, which keeps its log. A stage reruns when
# its inputs, its options, the source of its packages or the image that it runs in change.

include: "common.smk"


MODELS = matrix.models(config)  # prefix -> the config of that model
SEMANTIC = config.get("task") == "semantic"  # a class a pixel: id masks in place of boxes, one head
OWN = HERE / config["experiment"]
OPTIONS = [option for option in str(config.get("options") or "").split(",") if option]  # of the task, in every plan


def folder_of(wildcards):
    """Where a plan's ONNX lies: quantized ones under quant/, float ones are the exports themselves."""
    plan = PLANS[wildcards.id]
    return wildcards.m + matrix.folder(wildcards.id, plan)


def plan_flags(wildcards):
    """Of `ptq:METHOD`, or of `qat:METHOD`: trained from that method's state."""
    plan = PLANS[wildcards.id]
    method = plan["method"].split(":")[1]
    options = [f"head={plan['head']}"]
    options += [f"branch={plan['branch']}"] if "branch" in plan else []
    options += [f"calibration={selection(wildcards)}"] if "selection" in plan else []
    return f"--plan {plan_of(plan)} {told(*options, *OPTIONS, *plan.get('options', []))} --method {method}"


def told(*options):
    """Options of a task, each KEY=VALUE, for a command line; of two of one key the last counts."""
    return " ".join(f"--option {shlex.quote(option)}" for option in options)


def selection(wildcards):
    """The list of images that a plan is calibrated with, if it names a selection."""
    plan = PLANS[wildcards.id]
    return f"selection/{plan['selection']}.txt" if "selection" in plan else []


def ptq_options(wildcards):
    """The group `ptq`, with the plan's own number of images where it has one."""
    own = {key: value for key, value in PLANS[wildcards.id].items() if key == "calibration"}
    return flags(config["ptq"] | own)


def plan_of(plan):
    """A plan's name, or where the experiment keeps the plan file of that name."""
    file = OWN / "plans" / f"{plan['plan']}.yaml"
    return shlex.quote(str(file)) if file.is_file() else plan["plan"]


def plan_files(wildcards):
    """The plan file that a stage reads, if its plan is one."""
    path = plan_of(PLANS[wildcards.id])
    return path if path.endswith(".yaml") else []


def regions(wildcards):
    """The regions of the experiment's own, where it keeps any."""
    return [file] if (file := OWN / "regions.yaml").is_file() else []


def trained(wildcards):
    return MODELS[wildcards.m]


def npu_flags(wildcards):
    return "--fp16" if PLANS[wildcards.id]["plan"] == "fp16" else ""


def among(prefixes):
    """A wildcard pattern for some of the models; in parentheses, as an empty pattern counts for none."""
    return f"(?:{'|'.join(map(re.escape, prefixes))})" if prefixes else "(?!)"


wildcard_constraints:
    id="|".join(map(re.escape, PLANS)),
    m=among(MODELS),


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


if SEMANTIC and not config["dataset"]:
    DATA = "terrain/data.yaml"

    rule terrain:
        input:
            "data",
        output:
            directory("terrain"),
        params:
            source=source("generate"),
        shell:
            stage("generate/terrain") + "hexpath-data terrain generated={input:q} --out {output:q}"


rule card:
    input:
        [] if config["dataset"] else str(Path(DATA).parent),
    output:
        directory("dataset"),
    params:
        data=DATA,
        state=DATA_STATE,
        source=source("card"),
    threads: workflow.cores
    shell:
        stage("card") + "hexpath-data card {params.data:q} --out {output:q}"


rule select:
    # Images to calibrate with, in an order of which a plan takes the first ones.
    input:
        "dataset",
    output:
        "selection/{how}.txt",
    params:
        options=flags(config.get("select", {})),
        source=source("select"),
    shell:
        stage("select/{wildcards.how}")
        + "hexpath-data select {input:q}/data.yaml --method {wildcards.how} --out {output:q} {params.options}"


FROM_FILE = [m for m, own in MODELS.items() if own["checkpoint"]]


rule take:
    # A network that was trained elsewhere: an Ultralytics .pt file, or a model.safetensors.
    input:
        dataset="dataset",
        checkpoint=lambda wildcards: trained(wildcards)["checkpoint"],
    output:
        directory("{m}train"),
    wildcard_constraints:
        m=among(FROM_FILE),
    params:
        options=lambda wildcards: flags(trained(wildcards)["take"]),
        source=source("train"),
    shell:
        stage("train/{wildcards.m}")
        + "hexpath-models import {input.checkpoint:q} --data dataset/data.yaml --out {output:q}/model.safetensors"
        " {params.options}"


rule train:
    input:
        "dataset",
    output:
        directory("{m}train"),
    wildcard_constraints:
        m=among([m for m in MODELS if m not in FROM_FILE]),
    params:
        model=lambda wildcards: trained(wildcards)["model"],
        options=lambda wildcards: flags(trained(wildcards)["train"]),
        source=source("train"),
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        stage("train/{wildcards.m}")
        + "hexpath-models train --model {params.model:q} --data dataset/data.yaml --out {output:q}"
        " --work {wildcards.m}work/train {params.options}"


rule control:
    # The float model trained on, as long and as fast as QAT trains: what QAT is to be held against.
    input:
        "{m}train",
    output:
        directory("{m}control"),
    params:
        options=flags(config.get("control", {})),
        source=source("control"),
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        stage("control/{wildcards.m}")
        + "hexpath-models train --data dataset/data.yaml --out {output:q} --work {wildcards.m}work/control"
        " --weights {input:q}/model.safetensors {params.options}"


rule export_control:
    input:
        "{m}control",
    output:
        directory("{m}export/control"),
    params:
        source=source("export"),
    shell:
        stage("export/{wildcards.m}control")
        + "hexpath-models export {input:q}/model.safetensors --data dataset/data.yaml --head raw --out {output:q}"


rule export:
    # One-to-many of a network with two branches lies apart: export/raw-one-to-many.
    input:
        "{m}train",
    output:
        directory("{m}export/{head}{branch}"),
    wildcard_constraints:
        head="raw|decoded|plain",
        branch="|-one-to-many",
    params:
        branch=lambda wildcards: f"--branch {wildcards.branch[1:]}" if wildcards.branch else "",
        head=lambda wildcards: "" if SEMANTIC else f"--head {wildcards.head}",
        source=source("export"),
    shell:
        stage("export/{wildcards.m}{wildcards.head}{wildcards.branch}")
        + "hexpath-models export {input:q}/model.safetensors --data dataset/data.yaml --out {output:q}"
        " {params.head} {params.branch}"


rule ptq:
    input:
        "{m}train",
        plan_files,
        selection,
    output:
        directory("{m}quant/{id}"),
    wildcard_constraints:
        id=ids("ptq"),
    params:
        task=config["task"],
        plan=plan_flags,
        options=ptq_options,
        source=source("ptq"),
    shell:
        stage("ptq/{wildcards.m}{wildcards.id}")
        + "hexpath-quant ptq --task {params.task:q} --checkpoint {input[0]:q}/model.safetensors"
        " --data dataset/data.yaml --out {output:q} {params.plan} {params.options}"


rule qat:
    input:
        "{m}train",
        plan_files,
    output:
        directory("{m}quant/{id}"),
    wildcard_constraints:
        id=ids("qat"),
    params:
        task=config["task"],
        plan=plan_flags,
        options=flags(config["ptq"] | config.get("qat", {})),
        source=source("qat"),
    threads: max(1, workflow.cores // 2)  # half of it is one core's work anyway: two trainings side by side
    resources:
        gpu=int(config.get("qat", {}).get("device", "cpu") != "cpu"),
    shell:
        stage("qat/{wildcards.m}{wildcards.id}")
        + "hexpath-quant qat --task {params.task:q} --checkpoint {input[0]:q}/model.safetensors"
        " --data dataset/data.yaml --out {output:q} --work {wildcards.m}work/qat/{wildcards.id} {params.plan}"
        " {params.options}"


rule audit:
    input:
        "{m}train",
    output:
        "{m}audit/{head}.json",
    wildcard_constraints:
        head="raw|decoded|plain",
    params:
        task=config["task"],
        plan=config.get("audit", {}).get("plan", "w8a8"),
        images=config.get("audit", {}).get("images", 8),
        options=told(*OPTIONS),
        source=source("audit"),
    shell:
        stage("audit/{wildcards.m}{wildcards.head}")
        + "hexpath-quant audit --task {params.task:q} --checkpoint {input:q}/model.safetensors"
        " --data dataset/data.yaml --option head={wildcards.head} {params.options} --plan {params.plan:q} --calibration {params.images} --out {output:q}"


rule sensitivity:
    input:
        "{m}train",
        plan_files,
        regions=regions,
    output:
        "{m}sensitivity/{id}.json",
    wildcard_constraints:
        id=ids("ptq"),
    params:
        task=config["task"],
        plan=plan_flags,
        regions=lambda wildcards, input: f"--regions {shlex.quote(str(input.regions))}" if input.regions else "",
        options=flags(config.get("sensitivity", {})),
        source=source("sensitivity"),
    threads: workflow.cores
    shell:
        stage("sensitivity/{wildcards.m}{wildcards.id}")
        + "hexpath-quant sensitivity --task {params.task:q} --checkpoint {input[0]:q}/model.safetensors"
        " --data dataset/data.yaml --out {output:q} --work {wildcards.m}work/sensitivity/{wildcards.id} --workers {threads}"
        " {params.plan} {params.regions} {params.options}"


rule compile:
    input:
        folder_of,
    output:
        directory("{m}compile/{id}"),
    params:
        target=config["target"],
        npu=npu_flags,
        source=source("compile"),
    shell:
        stage("compile/{wildcards.m}{wildcards.id}")
        + "hexpath-deploy compile {input:q}/model.onnx --target {params.target:q} --out {output:q} {params.npu}"


rule agree:
    input:
        model=folder_of,
        compiled="{m}compile/{id}",
    output:
        "{m}agree/{id}.json",
    params:
        options=flags(config.get("agree", {})),
        source=source("agree"),
    shell:
        stage("agree/{wildcards.m}{wildcards.id}")
        + "hexpath-deploy agree {input.model:q}/model.onnx --compiled {input.compiled:q}"
        " --recorded {input.model:q}/recorded.npz --out {output:q} {params.options}"


EVALUATE = "hexpath-deploy evaluate {input.model:q}/model.onnx --out {output[0]:q}"
EVALUATE += " --data dataset/data.yaml --masks {output[1]:q}" if SEMANTIC else " --coco dataset/coco/val.json"


def scored(backend):
    """What an evaluation writes: figures, and class maps where the network makes any."""
    masks = [directory("{m}masks/{id}-" + backend)] if SEMANTIC else []
    return ["{m}eval/{id}-" + backend + ".json", *masks]


rule evaluate_ort:
    input:
        model=folder_of,
    output:
        scored("ort"),
    params:
        source=source("ort"),
    shell:
        stage("ort/{wildcards.m}{wildcards.id}") + EVALUATE + " --backend ort"


rule evaluate_emulator:
    input:
        model=folder_of,
        compiled="{m}compile/{id}",
        agree="{m}agree/{id}.json",
    output:
        scored("emulator"),
    params:
        options=flags(config.get("emulator", {})),
        source=source("emulator"),
    threads: workflow.cores
    shell:
        stage("emulator/{wildcards.m}{wildcards.id}")
        + EVALUATE
        + " --backend emulator --compiled {input.compiled:q} --workers {threads} {params.options}"


rule profile:
    input:
        model=folder_of,
    output:
        "{m}profile/{id}.json",
    params:
        target=config["target"],
        npu=npu_flags,
        source=source("profile"),
    shell:
        stage("profile/{wildcards.m}{wildcards.id}")
        + "hexpath-deploy profile {input.model:q}/model.onnx --target {params.target:q} --out {output:q} {params.npu}"


def each(pattern, plans):
    """A file of each of those plans of every model, by a pattern with {id}."""
    made = {m: matrix.of_model(PLANS, own["model"]) for m, own in MODELS.items()}
    return [m + pattern.format(id=i) for m in MODELS for i in plans if i in made[m]]


HEADS = config.get("audit", {}).get("heads", [])
AUDITS = [f"{m}audit/{head}.json" for m in MODELS for head in (["raw"] if SEMANTIC and HEADS else HEADS)]


def figures(on_npu=CANDIDATES):
    """What the stages found: every plan scored in ONNX Runtime, some on the NPU as well."""
    npu = each("eval/{id}-emulator.json", on_npu) + each("profile/{id}.json", on_npu)
    return each("eval/{id}-ort.json", PLANS) + npu + AUDITS


RECORDED = figures()  # what the record reads; a Snakefile adds to it, or sets it anew


rule record:
    input:
        lambda wildcards: RECORDED,
        told=[HERE / "record.py", HERE / "sentences.py", OWN / "answer.py"],
    output:
        "results.json",
    params:
        plans=PLANS,
        question=config["question"],
        source=source("record"),
    shell:
        stage("record")
        + f"{PYTHON} {shlex.quote(str(HERE / 'record.py'))} {shlex.quote(str(OWN))}"
        " --out {output:q}"


rule report:
    input:
        "results.json",
    output:
        "report.html",
    params:
        source=source("report"),
    shell:
        stage("report") + "hexpath-deploy report {input:q} --out {output:q}"


rule log:
    input:
        results="results.json",
        report="report.html",
    output:
        touch("logs/wandb.done"),
    params:
        source=source("log"),
    shell:
        stage("log") + "hexpath-deploy log {input.results:q} --report {input.report:q}"


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
