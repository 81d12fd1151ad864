"""Write results.json of a run on masks: every plan with the files of its stages, and the experiment's answer.

    python experiments/semantic.py EXPERIMENT_FOLDER --out results.json      in a run folder

What record.py is for boxes; the experiment's own answer.py puts the figures into sentences.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import record


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    facts = spec(json.loads(Path("config.json").read_text()))
    figures = Path("work/figures.json")
    code = record.record(facts, out=figures)
    if code == 0:
        told = record.answer_of(args.experiment / "answer.py")(json.loads(figures.read_text()))
        code = record.record(facts | told, out=args.out)
    return code


def spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a run of one network, by the layout of the Snakefile."""
    plans = config["plans"]
    data = yaml.safe_load(Path(config["dataset"] or "terrain/data.yaml").read_text())
    names = data["names"] if isinstance(data["names"], dict) else dict(enumerate(data["names"]))
    first = json.loads(Path(f"eval/{next(iter(plans))}-ort.json").read_text())
    return {
        "experiment": config["experiment"],
        "name": config["name"],
        "question": config["question"],
        "commit": record.commit(),
        "command": config["command"],
        "config": {key: value for key, value in config.items() if key not in ("question", "command")},
        "pins": record.pins(),
        "tools": record.tools(),
        "dataset": {
            "fingerprint": data.get("fingerprint", "unknown"),
            "images": {"val": int(first["images"])},
            "names": [name for key, name in names.items() if int(key) != data.get("ignore")],
        },
        "rows": [record.row(name, plan, prefix="", model=config["model"]) for name, plan in plans.items()],
        "curves": curves(plans),
        **record.present("audits", ["audit.json"]),
    }


def curves(plans: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Training in FP32, and each QAT."""
    places = {"FP32 training": "train"}
    places |= {
        f"QAT {name}": f"quant/{name}" for name, plan in plans.items() if plan["method"].startswith("qat")
    }
    return [
        {"name": name, "path": f"{folder}/history.csv", "x": "epoch", "y": ["miou"]}
        for name, folder in places.items()
        if Path(folder, "history.csv").is_file()
    ]


if __name__ == "__main__":
    sys.exit(main())
