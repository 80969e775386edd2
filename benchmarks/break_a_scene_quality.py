"""What each part of Break-A-Scene is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/break_a_scene_quality.py --quick
    .venv/bin/python benchmarks/break_a_scene_quality.py

Learns scenes of two and three unseen objects with the whole method and with one part switched off
in turn, draws with what was learned, and writes a table to `docs/results/`. The pictures of a
finished cell (scene, seed, variant) stand below `runs/` and are not drawn again, only judged; stop
and start as you like. `--report` writes the page from what is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from quality_cells import compute, finished
from quality_page import page
from quality_plan import FULL, QUICK
from quality_runs import asked, cells_folder, command_of, write_page

from conceptloom.cli.models import open_host
from conceptloom.concepts.fingerprints import model_digest

NAME = "break_a_scene_quality"


def main() -> None:
    options = asked(NAME, __doc__, "an hour of one core, not a night", seeds=3)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    key = json.dumps([digest, asdict(budget)])
    folder = cells_folder(NAME, key)
    if not options.report:
        compute(host, budget, options.seeds, folder, key, options.part)
    cells = finished(folder, options.seeds, key)
    text = page(cells, budget, options.seeds, command_of(NAME, options), digest)
    write_page(text, options.out)


if __name__ == "__main__":
    main()
