"""What each part of Break-A-Scene is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/break_a_scene_quality.py --quick
    .venv/bin/python benchmarks/break_a_scene_quality.py

Learns scenes of two and three unseen objects with the whole method and with one part switched off
in turn, draws with what was learned, and writes a table to `docs/results/`. The pictures of a
finished cell (scene, seed, variant) stand below `runs/` and are not drawn again, only judged; stop
and start as you like. `--report` writes the page from what is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from quality_cells import compute, finished
from quality_page import page
from quality_plan import FULL, QUICK

from conceptloom.cli.models import open_host
from conceptloom.training.keys import model_digest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "break_a_scene_quality.md"
CELLS = ROOT / "runs" / "break_a_scene_quality"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an hour of one core, not a night")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 share the work of two cores")
    parser.add_argument("--report", action="store_true", help="write the page, compute nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    key = json.dumps([digest, asdict(budget)])
    folder = CELLS / hashlib.sha256(key.encode()).hexdigest()[:12]
    if not options.report:
        first, _, parts = options.part.partition("/")
        part = (int(first), int(parts or 1))
        compute(host, budget, options.seeds, folder, key, part)
    command = "python benchmarks/break_a_scene_quality.py" + (" --quick" if options.quick else "")
    text = page(finished(folder, options.seeds, key), budget, options.seeds, command, digest)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
