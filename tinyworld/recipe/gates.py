"""What a checkpoint reaches: `python -m conceptloom.tinyworld.recipe.gates`.

Writes the figures as JSON; `table` renders them. Gates (gate_figures.py): class, colour, two
objects both right, background, attention of the class word, reconstruction, size of the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import load_tinyworld, read_checkpoint
from ..judge.judge import load_judge
from ..sampling import GUIDANCE, STEPS
from .gate_figures import Gate, measure

log = logging.getLogger("conceptloom")
CHECKPOINT = Path("runs/tinyworld2/tinyworld.safetensors")
RESULTS = CHECKPOINT.with_name("gates.json")


def machine() -> str:
    """The processor and its cores, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [s for s in info.read_text().split("\n") if s.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def results(gates: list[Gate], path: Path, count: int) -> dict[str, Any]:
    """Everything that the page needs, ready for JSON."""
    training = read_checkpoint(path).training
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "prompts": count,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "gates": [asdict(gate) | {"passed": gate.passed} for gate in gates],
        "training": {k: v for k, v in training.items() if k != "losses"},
        "judge": asdict(load_judge().calibration),
    }


def table(figures: dict[str, Any]) -> str:
    """The gates of `results` as a Markdown table."""
    rows = ["| gate | asked | reached | judge on true pictures | passed |", "|---|---|---|---|---|"]
    for gate in figures["gates"]:
        unit, ceiling = gate["unit"], gate["ceiling"]
        asked = f"{'at most ' if gate['at_most'] else ''}{gate['asked']:g} {unit}".strip()
        best = "" if ceiling is None else f"{ceiling:g} {unit}".strip()
        reached = f"{gate['reached']:g} {unit}".strip()
        passed = "yes" if gate["passed"] else "**no**"
        rows.append(f"| {gate['name']} | {asked} | {reached} | {best} | {passed} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the JSON, log the table."""
    p = argparse.ArgumentParser(
        prog="python -m conceptloom.tinyworld.recipe.gates",
        description=(__doc__ or "").split("\n")[0],
    )
    p.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    p.add_argument("--count", type=int, default=256, help="prompts of each kind")
    p.add_argument("--output", type=Path, default=RESULTS, help="JSON file")
    args = p.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    gates = measure(load_tinyworld(args.checkpoint), args.checkpoint, args.count)
    figures = results(gates, args.checkpoint, args.count)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    log.info("%s", table(figures))


if __name__ == "__main__":
    main()
