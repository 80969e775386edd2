"""Concept Weaver's similarity and time on a real checkpoint, by the paper's protocol.

    python benchmarks/similarity_weave.py --checkpoint stable-diffusion-2-1 --device cuda \\
        --dtype fp16 --weaves WEAVES --clip clip-vit-base-patch32 --dino dino-vitb16 \\
        --detector grounding-dino-base --sam sam-vit-huge --page docs/results/similarity_weave.md

WEAVES holds a folder for each picture to weave, with a `weave.json` that ties together a template,
its sentence, and concepts with their pictures; similarity_weave_files.py shows one. Regions of the
template come from mask pictures, or from --maskformer or --detector and --sam.

Every concept is learned into a bank by the paper's recipe, the template is inverted, and woven by
the whole method, with a part of it switched off, and by what else there is. What is finished (a
concept, a picture) stands below `runs/` and is not made again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

from base_model import open_model, picture_side
from PIL import Image
from similarity_costs import costs_of
from similarity_measures import Cutter
from similarity_runs import (
    add_cutter_options,
    add_encoder_options,
    add_run_options,
    check_cutter,
    checkpoint_digest,
    describe_cutter,
    describe_run,
    measures_of,
    write_results,
)
from similarity_tables import Row
from similarity_weave_cells import Masks, Times, Weaver, kept
from similarity_weave_files import WeaveJob, weaves_of
from similarity_weave_page import measured, page, sheet
from similarity_weave_plan import (
    BASE,
    VARIANTS,
    WeaveSimilarityBudget,
    full_budget,
    quick_budget,
    regions_of,
)
from torch import Tensor

from conceptloom.concepts.fingerprints import content_key
from conceptloom.errors import MaskError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.scenes.scene import make_scene, resized_scene


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weaves", type=Path, required=True, help="a folder of weave folders")
    add_run_options(parser)
    add_encoder_options(parser, clip="CLIP, as the paper ViT-B/32", dino="DINO ViT-B/16")
    add_cutter_options(parser)
    options = parser.parse_args()
    check_cutter(parser, options)
    return options


def fitted(
    name: str, job: WeaveJob, cutter: Cutter | None, side: int, multiple: int
) -> tuple[WeaveJob, Masks]:
    """A weave at the size to draw at, with the regions of all its concepts.

    Args:
        side: of the square with the wanted area, px.
        multiple: of which the template's sides become multiples, px.

    Raises:
        InputError: a region is missing and not found, pictures or regions do not go together, or
            the sentence does not contain a word.
    """
    missing = [part for part in job.parts if part.region is None]
    seen = cutter.cut(job.template, [part.word for part in missing]) if cutter else []
    regions = {part.name: part.region for part in job.parts}
    regions |= {part.name: mask for part, mask in zip(missing, seen, strict=False)}
    if lost := [concept for concept, mask in regions.items() if mask is None]:
        raise MaskError(
            f"{name}: the region of <{lost[0]}> is not known; name a mask picture under 'region', "
            "or a segmenter that finds its word in the template."
        )
    scene = make_scene([job.template], {n: [mask] for n, mask in regions.items()}, {})
    picture = resized_scene(scene, side, multiple).images[0]
    job = replace(job, template=picture.image)
    regions_of(job, picture.masks, {}, BASE)
    for part in job.every:
        resized_scene(part.taught, side, multiple)
    return job, picture.masks


def key_of(
    options: argparse.Namespace,
    host: DiffusersHost,
    job: WeaveJob,
    masks: Masks,
    budget: WeaveSimilarityBudget,
) -> str:
    """Other settings, models or pictures have another folder."""
    taught = [picture.image for part in job.every for picture in part.taught.images]
    given = {"template": job.template, "regions": list(masks.values()), "taught": taught}
    ways = {variant: asdict(config) for variant, config in VARIANTS.items()}
    names = [[part.name, part.word] for part in job.every]
    settings = [options.dtype, asdict(budget), job.sentence, names, ways]
    return content_key(checkpoint_digest(host), settings, given)[:12]


def main() -> None:
    options = arguments()
    jobs = weaves_of(options.weaves)
    cutter = measures_of(options, "cpu").cutter
    host = open_model(options)
    side = options.resolution or picture_side(host)
    budget = (quick_budget if options.quick else full_budget)(side, options.seed)
    fits = {name: fitted(name, job, cutter, side, host.pixels_per_latent)
            for name, job in jobs.items()}  # fmt: skip
    cells = options.cells / "weave"
    pictures: dict[str, dict[str, Tensor]] = {name: {} for name in fits}
    times: dict[str, dict[str, Times]] = {variant: {} for variant in VARIANTS}
    concepts: set[Path] = set()
    for name, (job, masks) in fits.items():
        weaver = Weaver(host, job, masks, budget, cells / "concepts")
        folder = cells / f"{name}-{key_of(options, host, job, masks, budget)}"
        for variant in VARIANTS:
            pictures[name][variant], times[variant][name] = kept(weaver, variant, folder)
        concepts.update(weaver.files)
        print(f"{name}: {len(VARIANTS)} pictures", flush=True)
    measures = measures_of(options, options.device)
    rows: dict[str, dict[str, Row]] = {variant: {} for variant in VARIANTS}
    for name, (job, masks) in fits.items():
        for variant, row in measured(measures, job, masks, pictures[name]).items():
            rows[variant][name] = row
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, regions that no mask gave by "
    told = describe_run(options, host, side, f"{networks}{describe_cutter(options)}.")
    shown = options.page.with_suffix(".jpg") if options.page else None
    costs, command = costs_of(sorted(concepts)), shlex.join(sys.argv)
    picture = shown.name if shown else ""
    text = page(rows, times, costs, budget, told, command, options.device, picture)
    write_results(text, options)
    if shown:
        values = (sheet({n: job for n, (job, _) in fits.items()}, pictures) * 255).round().byte()
        Image.fromarray(values.numpy()).save(shown, quality=90)


if __name__ == "__main__":
    main()
