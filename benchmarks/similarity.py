"""CLIP and DINO similarity on a real checkpoint, by the protocols of the papers.

    python benchmarks/similarity.py --checkpoint sd-2-1-base --device cuda --dtype bf16 \\
        --scenes SCENES --clip clip-vit-large-patch14 --dino dino-vitb16 \\
        --maskformer maskformer-swin-base-coco --page docs/results/similarity.md
    python benchmarks/similarity.py --method residuals --checkpoint ... --scenes ...
    python benchmarks/similarity.py --ablations --checkpoint ... --scenes ...

SCENES holds a folder for each scene, with its pictures, its masks and a `scene.json` that ties them
together (as `conceptloom train --scene` reads it); every concept needs a class word there:

    SCENES/kitchen/scene.json
        {"pictures": [{"image": "1.jpg", "masks": {"my-mug": "1-mug.png", "my-cat": "1-cat.png"}}],
         "words": {"my-mug": "cup", "my-cat": "cat"}}
    SCENES/kitchen/1.jpg ...

Break-A-Scene learns each scene at once, with --ablations also without each of its parts;
Personalized Residuals one concept after the other from the scene's whole pictures. CLIP ViT-L/14
and DINO ViT-B/16 are folders as transformers saves them, or names on the Hugging Face hub. Masked
DINO needs the masks of drawn objects: by MaskFormer as in the paper (it knows COCO's classes), or
by --detector and --sam (Grounding DINO and SAM, any word).

What is finished (a concept, the pictures of a scene) stands below `runs/` and is not made again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from base_model import open_model, picture_side
from similarity_cells import LAG, LORA, SimilarityLesson, files_of, lesson_of, pictures, variants_of
from similarity_costs import cost_lines, costs_of
from similarity_folders import each_folder
from similarity_measures import MaskFormer, Measures
from similarity_page import measured, page, pooled
from similarity_plan import (
    BREAK_A_SCENE,
    PAPER_TIMES,
    PROMPTS,
    RESIDUALS,
    cases_of,
    full_budget,
    quick_budget,
)
from similarity_runs import (
    add_cutter_options,
    add_encoder_options,
    add_run_options,
    check_cutter,
    describe_cutter,
    describe_run,
    measures_of,
    write_results,
)
from similarity_tables import Row

from conceptloom.cli.scene_files import SCENE_FILE, scene_from_folder
from conceptloom.concepts.concept_file import load_concept
from conceptloom.errors import ImageError, InputError
from conceptloom.methods.personalized_residuals import residuals_of
from conceptloom.scenes.scene import ConceptScene, resized_scene


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=list(PROMPTS), default=BREAK_A_SCENE)
    parser.add_argument("--scenes", type=Path, required=True, help="a folder of scene folders")
    add_run_options(parser)
    dino = "DINO ViT-B/16 (residuals: S/16)"
    add_encoder_options(parser, clip="CLIP ViT-L/14", dino=dino)
    add_cutter_options(parser)
    parser.add_argument("--ablations", action="store_true", help="also without each of its parts")
    options = parser.parse_args(argv)
    check_cutter(parser, options)
    if options.ablations and options.method != BREAK_A_SCENE:
        parser.error(f"--ablations are of {BREAK_A_SCENE}")
    return options


def scenes_of(folder: Path) -> dict[str, ConceptScene]:
    """Name of a folder -> its scene.

    Raises:
        InputError: there is none, or a concept has no class word.
    """
    found = each_folder(
        folder, SCENE_FILE, lambda file: scene_from_folder(file.parent), "similarity.py"
    )
    for name, scene in found.items():
        if bare := [concept for concept, word in scene.words.items() if not word]:
            raise InputError(f"{name}: <{bare[0]}> needs a class word under 'words'.")
    return found


def main() -> None:
    options = arguments()
    scenes, method = scenes_of(options.scenes), options.method
    check(measures_of(options, "cpu"), scenes, method)
    host = open_model(options)
    side = options.resolution or picture_side(host)
    if method == BREAK_A_SCENE:  # residuals are learned from squares cut out of the pictures
        check_sizes(scenes, side, host.pixels_per_latent)
    budget = (quick_budget if options.quick else full_budget)(side, options.seed)
    variants = [*variants_of(method, with_ablations=options.ablations)]
    lessons: dict[str, SimilarityLesson] = {}
    for name, scene in scenes.items():
        lessons[name] = lesson_of(host, name, scene, method, budget, options.seed, options.cells)
        for variant in variants:
            count = len(pictures(host, lessons[name], variant, budget, options.seed))
            print(f"{name}, {variant}: {count} prompts", flush=True)
    measures = measures_of(options, options.device)
    rows: dict[str, dict[str, Row]] = {variant: {} for variant in variants}
    elsewhere: dict[str, dict[str, Row]] = {variant: {} for variant in variants}
    for name, lesson in lessons.items():
        for variant in variants:
            drawn = pictures(host, lesson, variant, budget, options.seed)
            found = measured(measures, lesson.scene, drawn)
            rows[variant][name] = pooled(found)
            elsewhere[variant][name] = pooled(
                row for (case, _), row in zip(drawn, found, strict=True) if case.elsewhere
            )
    costs = {
        variant: costs_of(path for lesson in lessons.values()
                          for path in files_of(lesson, variant).values())
        for variant in variants if variant != LORA  # which is drawn with the concepts of LAG
    }  # fmt: skip
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, masks by {describe_cutter(options)}."
    told = describe_run(options, host, side, networks)
    if method == RESIDUALS:
        told.append(describe_numbers(path for lesson in lessons.values()
                                 for path in files_of(lesson, LAG).values()))  # fmt: skip
    text = page(rows, elsewhere, method, budget, told, shlex.join(sys.argv), options.device)
    write_results("\n".join([text, *cost_lines(costs, PAPER_TIMES[method]), ""]), options)


def check(measures: Measures, scenes: Mapping[str, ConceptScene], method: str) -> None:
    """Say before hours of learning what would be in the way of measuring: measure a taught picture.

    Raises:
        ConfigError: the segmenter does not know a class word.
    """
    if isinstance(measures.cutter, MaskFormer):
        for word in {word for scene in scenes.values() for word in scene.words.values()}:
            measures.cutter.label_of(word)
    scene = next(iter(scenes.values()))
    case = list(cases_of(method, scene.words))[-1]  # with Break-A-Scene, all concepts together
    measured(measures, scene, [(case, scene.images[0].image[None])])


def check_sizes(scenes: Mapping[str, ConceptScene], side: int, multiple: int) -> None:
    """Say before anything is learned which scene's pictures cannot be learned together.

    Args:
        side: of the square with the area to learn at, px; see `resized_scene`.
        multiple: of which the sides become multiples, px.

    Raises:
        ImageError: the pictures of a scene differ in size.
    """
    for name, scene in scenes.items():
        try:
            resized_scene(scene, side, multiple)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def describe_numbers(paths: Iterable[Path]) -> str:
    """How many numbers the residuals of these concepts hold, for a page."""
    counts = {
        sum(up.numel() + down.numel() for up, down in residuals_of(load_concept(path)).values())
        for path in paths
    }
    counted = ", ".join(f"{count:,}" for count in sorted(counts))
    return f"Residuals of a concept: {counted} numbers (the paper: 1.2 million on SD 1.4)."


if __name__ == "__main__":
    main()
