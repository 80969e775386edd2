"""Are ConceptLab's inventions new, and still of their category? Measured on TinyWorld.

    .venv/bin/python benchmarks/conceptlab_quality.py --quick
    .venv/bin/python benchmarks/conceptlab_quality.py

Adaptive negatives against fixed ones, against none, against learning in the text encoder's space,
and against negative prompts at sampling, for five categories and five seeds. The pictures of a
finished cell (category, seed, variant) stand below `runs/` and are only judged anew; stop and start
as you like. `--report` writes the page from what is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from conceptlab_cells import compute, finished, kept
from conceptlab_page import page, sheet
from conceptlab_plan import FULL, QUICK
from PIL import Image
from quality_runs import asked, cells_folder, command_of, write_page

from conceptloom.cli.laboratory import on_host
from conceptloom.cli.models import TINYWORLD, open_host

NAME = "conceptlab_quality"


def main() -> None:
    options = asked(NAME, __doc__, "minutes of one core, not hours", seeds=5)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    laboratory = on_host(host, TINYWORLD, TINYWORLD)
    folder = cells_folder(NAME, json.dumps([laboratory.space.digest, asdict(budget)]))
    if not options.report:
        compute(host, laboratory, budget, options.seeds, folder, options.part)
    there = kept(folder, options.seeds)
    left = {name: words for name, (_, words) in there.items()}
    cells, picture = finished(folder, options.seeds, laboratory), options.out.with_suffix(".jpg")
    command, digest = command_of(NAME, options), laboratory.space.digest[:12]
    text = page(cells, left, budget, options.seeds, command, picture.name, digest)
    write_page(text, options.out)
    shown = (sheet(there) * 255).round().byte().numpy()
    Image.fromarray(shown).save(picture, quality=90)


if __name__ == "__main__":
    main()
