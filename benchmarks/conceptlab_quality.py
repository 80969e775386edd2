"""Are ConceptLab's inventions new, and still of their category? Measured on TinyWorld.

    .venv/bin/python benchmarks/conceptlab_quality.py --quick
    .venv/bin/python benchmarks/conceptlab_quality.py

Adaptive negatives against fixed ones, against none, and against negative prompts at sampling, for
five categories and five seeds. The pictures of a finished cell (category, seed, variant) stand
below `runs/` and are only judged anew; stop and start as you like. `--report` writes the page from
what is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from conceptlab_cells import compute, finished, kept
from conceptlab_page import page, sheet
from conceptlab_plan import FULL, QUICK
from PIL import Image

from conceptloom.cli.laboratory import on_host
from conceptloom.cli.models import TINYWORLD, open_host

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "conceptlab_quality.md"
CELLS = ROOT / "runs" / "conceptlab_quality"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="minutes of one core, not hours")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 share the work of two cores")
    parser.add_argument("--report", action="store_true", help="write the page, compute nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    laboratory = on_host(host, TINYWORLD, TINYWORLD)
    key = json.dumps([laboratory.space.digest, asdict(budget)])
    folder = CELLS / hashlib.sha256(key.encode()).hexdigest()[:12]
    if not options.report:
        first, _, parts = options.part.partition("/")
        compute(host, laboratory, budget, options.seeds, folder, (int(first), int(parts or 1)))
    command = "python benchmarks/conceptlab_quality.py" + (" --quick" if options.quick else "")
    there = kept(folder, options.seeds)
    left = {name: words for name, (_, words) in there.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture = options.out.with_suffix(".jpg")
    shown = (sheet(there) * 255).round().byte().numpy()
    Image.fromarray(shown).save(picture, quality=90)
    cells = finished(folder, options.seeds, laboratory)
    text = page(cells, left, budget, options.seeds, command, picture.name)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
