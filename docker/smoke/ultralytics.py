"""Inside the ultralytics image: versions, a generated dataset, one training step and an export."""

from __future__ import annotations

import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import onnx


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:

        def run(*command: str) -> None:
            subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)

        run("hexpath-data", "generate", "data", "--train", "4", "--val", "2", "--size", "96")
        run("hexpath-data", "card", "data/data.yaml", "--out", "dataset")
        made = ("--data", "dataset/data.yaml", "--out")
        small = ("--epochs", "1", "--imgsz", "96", "--batch", "4", "--device", "cpu")
        run("hexpath-models", "train", *made, "train", "--work", "work", *small)
        run("hexpath-models", "export", "train/model.safetensors", "--head", "raw", *made, "export")
        nodes = onnx.load(Path(scratch) / "export" / "model.onnx").graph.node
    tools = {name: metadata.version(name) for name in ("hexpath-models", "torch", "ultralytics")}
    print(f"ultralytics: trained one step, exported {len(nodes)} nodes; {tools}")


if __name__ == "__main__":
    main()
