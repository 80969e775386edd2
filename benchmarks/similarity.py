"""CLIP and DINO similarity on a real checkpoint, by the protocols of the papers.

    python benchmarks/similarity.py --checkpoint sd-2-1-base --device cuda --dtype bf16 \\
        --scenes SCENES --clip clip-vit-large-patch14 --dino dino-vitb16 \\
        --maskformer maskformer-swin-base-coco --page docs/results/similarity.md
    python benchmarks/similarity.py --method residuals --checkpoint ... --scenes ...

SCENES holds a folder for each scene, with its pictures, its masks and a `scene.json` that ties them
together (as `conceptloom train --scene` reads it); every concept needs a class word there:

    SCENES/kitchen/scene.json
        {"pictures": [{"image": "1.jpg", "masks": {"my-mug": "1-mug.png", "my-cat": "1-cat.png"}}],
         "words": {"my-mug": "cup", "my-cat": "cat"}}
    SCENES/kitchen/1.jpg ...

Break-A-Scene learns each scene at once, Personalized Residuals one concept after the other from the
scene's whole pictures. CLIP ViT-L/14 and DINO ViT-B/16 are folders as transformers saves them, or
names on the Hugging Face hub. Masked DINO needs the masks of drawn objects: by MaskFormer as in the
paper (it knows COCO's classes), or by --detector and --sam (Grounding DINO and SAM, any word).

What is finished (a concept, the pictures of a scene) stands below `runs/` and is not made again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from base_model import open_model, picture_side
from similarity_measures import MaskFormer, Measures
from similarity_page import Row, measured, page
from similarity_plan import (
    BASE,
    BREAK_A_SCENE,
    PROMPTS,
    RESIDUALS,
    Budget,
    Case,
    cases_of,
    full_budget,
    quick_budget,
)
from similarity_runs import (
    add_cutter_options,
    add_encoder_options,
    add_run_options,
    check_cutter,
    cutter_told,
    decoded,
    kept_pictures,
    measures_of,
    told_run,
    write_results,
)
from torch import Tensor

from conceptloom.attention.lag import LagConfig
from conceptloom.cli.scene_files import SCENE_FILE, scene_from_folder
from conceptloom.errors import InputError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import learn_scene
from conceptloom.methods.personalized_residuals import Localised, learn_residuals, sample_lag
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.training.concept import Concept, stacked
from conceptloom.training.concept_file import load_concept, save_concept
from conceptloom.training.keys import content_key, model_digest
from conceptloom.training.scene import ConceptScene

LAG, LORA = "residuals with LAG", "residuals everywhere"
VARIANTS = {
    BREAK_A_SCENE: {BREAK_A_SCENE: None, BASE: None},
    RESIDUALS: {LAG: LagConfig(), LORA: LagConfig(localised=False), BASE: None},
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=list(PROMPTS), default=BREAK_A_SCENE)
    parser.add_argument("--scenes", type=Path, required=True, help="a folder of scene folders")
    add_run_options(parser)
    dino = "DINO ViT-B/16 (residuals: S/16)"
    add_encoder_options(parser, clip="CLIP ViT-L/14", dino=dino)
    add_cutter_options(parser)
    options = parser.parse_args(argv)
    check_cutter(parser, options)
    return options


def scenes_of(folder: Path) -> dict[str, ConceptScene]:
    """Name of a folder -> its scene.

    Raises:
        InputError: there is none, or a concept has no class word.
    """
    found = {path.parent.name: scene_from_folder(path.parent)
             for path in sorted(folder.glob(f"*/{SCENE_FILE}"))}  # fmt: skip
    if not found:
        raise InputError(f"{folder} holds no folder with a {SCENE_FILE}; see the top of this file.")
    for name, scene in found.items():
        if bare := [concept for concept, word in scene.words.items() if not word]:
            raise InputError(f"{name}: <{bare[0]}> needs a class word under 'words'.")
    return found


def learned(
    host: DiffusersHost, scene: ConceptScene, method: str, budget: Budget, folder: Path
) -> list[Concept]:
    """The scene's concepts from the folder, or taught now; stopped runs go on."""
    if method == BREAK_A_SCENE:
        path = folder / "scene.concept.safetensors"
        if not path.is_file():
            config, classes = budget.break_a_scene, budget.class_images
            state = folder / "state"
            result = learn_scene(host, scene, config, class_images=classes, folder=state)
            save_concept(result.concept, path)
        return [load_concept(path)]
    found: list[Concept] = []
    for name, word in scene.words.items():
        path = folder / f"{name}.concept.safetensors"
        if not path.is_file():
            images = [picture.image for picture in scene.images if name in picture.masks]
            state = folder / f"{name}-state"
            result = learn_residuals(host, images, name, word, budget.residuals, folder=state)
            save_concept(result.concept, path)
        found.append(load_concept(path))
    return found


def draws(
    host: DiffusersHost, variant: str, concepts: Sequence[Concept], budget: Budget, seed: int
) -> Callable[[Case], Tensor]:
    """Draws the latents of a case, as a variant does it."""
    config, side = VARIANTS[RESIDUALS].get(variant), budget.break_a_scene.resolution_px
    noise = seeded_noise(host, seed, budget.pictures, (side, side))

    def plain(text: str, concept: Concept | None = None) -> Tensor:
        stack = stacked([(concept, 1.0)] if concept else [])
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt, negative = host.encode_prompt(text, stack.handles), host.encode_prompt("")
            return sample_ddim(
                host, [prompt], negative, noise, steps=budget.sampling_steps, cfg=budget.cfg
            )

    def draw(case: Case) -> Tensor:
        if variant == BASE:
            return plain(case.plain)
        (concept,) = [c for c in concepts if set(case.names) <= set(c.names)]
        if config is None:
            return plain(case.prompt, concept)
        given = [Localised(concept=concept, config=config)]
        return sample_lag(
            host, given, [case.prompt], noise, steps=budget.sampling_steps, cfg=budget.cfg
        )

    return draw


def pictures(
    host: DiffusersHost, variant: str, concepts: Sequence[Concept], cases: Sequence[Case],
    budget: Budget, seed: int, path: Path,
) -> list[tuple[Case, Tensor]]:  # fmt: skip
    """[n, H, W, 3] of every case, from the file or drawn now."""

    def drawn() -> Iterator[Tensor]:
        draw = draws(host, variant, concepts, budget, seed)
        return (decoded(host, draw(case)) for case in cases)

    return list(zip(cases, kept_pictures(path, drawn), strict=True))


def main() -> None:
    options = arguments()
    scenes, method = scenes_of(options.scenes), options.method
    check(measures_of(options, "cpu"), scenes)
    host = open_model(options)
    side = options.resolution or picture_side(host)
    budget = (quick_budget if options.quick else full_budget)(side, options.seed)
    made: dict[str, dict[str, list[tuple[Case, Tensor]]]] = {v: {} for v in VARIANTS[method]}
    for name, scene in scenes.items():
        folder = options.cells / method / f"{name}-{key_of(options, host, budget, scene)}"
        folder.mkdir(parents=True, exist_ok=True)
        concepts = learned(host, scene, method, budget, folder)
        cases = list(cases_of(method, scene.words, budget.prompts))
        for variant in made:
            path = folder / f"{variant.replace(' ', '-')}.pictures.safetensors"
            given = (host, variant, concepts, cases, budget, options.seed, path)
            made[variant][name] = pictures(*given)
        print(f"{name}: {len(cases)} prompts", flush=True)
    measures = measures_of(options, options.device)
    rows: dict[str, dict[str, Row]] = {
        variant: {name: measured(measures, scenes[name], drawn) for name, drawn in of.items()}
        for variant, of in made.items()
    }
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, masks by {cutter_told(options)}."
    told = told_run(options, host, side, networks)
    text = page(rows, method, budget, told, shlex.join(sys.argv), options.device)
    write_results(text, options)


def key_of(
    options: argparse.Namespace, host: DiffusersHost, budget: Budget, scene: ConceptScene
) -> str:
    """Other settings, models or pictures have another folder."""
    masks = [mask for picture in scene.images for mask in picture.masks.values()]
    given = {"images": [picture.image for picture in scene.images], "masks": masks}
    asked = [case.prompt for case in cases_of(options.method, scene.words, budget.prompts)]
    settings = [options.dtype, options.seed, asdict(budget), dict(scene.words), asked]
    return content_key(model_digest(host), settings, given)[:12]


def check(measures: Measures, scenes: Mapping[str, ConceptScene]) -> None:
    """Say before hours of learning what would be in the way of measuring.

    Raises:
        ConfigError: the segmenter does not know a class word.
    """
    if isinstance(measures.cutter, MaskFormer):
        for word in {word for scene in scenes.values() for word in scene.words.values()}:
            measures.cutter.label_of(word)


if __name__ == "__main__":
    main()
