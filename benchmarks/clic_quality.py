"""What each part of CLiC is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/clic_quality.py --quick
    .venv/bin/python benchmarks/clic_quality.py

Learns unseen ornaments on one object and carries each over to a part of another one, with the whole
method and with one part switched off in turn, and writes a table to `docs/results/`. The pictures
of a finished cell (pair, seed, variant) stand below `runs/` and are not drawn again, only judged;
stop and start as you like. `--report` writes the page from what is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from clic_cells import compute, finished, sheet
from clic_page import page
from clic_plan import FULL, QUICK
from PIL import Image
from quality_runs import asked, cells_folder, command_of, write_page

from conceptloom.cli.models import open_host
from conceptloom.concepts.fingerprints import model_digest

NAME = "clic_quality"


def main() -> None:
    options = asked(NAME, __doc__, "fewer steps and pictures", seeds=3)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    key = json.dumps([digest, asdict(budget)])
    folder = cells_folder(NAME, key)
    if not options.report:
        compute(host, budget, options.seeds, folder, key, options.part)
    cells, pictures = finished(folder, options.seeds, key), options.out.with_suffix(".jpg")
    command = command_of(NAME, options)
    text = page(cells, budget, options.seeds, command, digest, pictures.name)
    write_page(text, options.out)
    Image.fromarray(sheet(folder, key)).save(pictures, quality=90)


if __name__ == "__main__":
    main()
