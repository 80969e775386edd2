"""CLIP and DINO similarity by the papers' protocols, Break-A-Scene's ablations, time and memory.

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
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from harness.models import open_model, picture_side
from harness.results import Result, Section, stamp
from harness.statistics import Expectation, gain_table, judged, spread_table
from harness.store import NO_PREVIEW, kept_pictures
from harness.subject import Options
from quality.break_a_scene import VARIANTS as CHANGES
from quality.break_a_scene import WHOLE, without_phase_1
from torch import Tensor

from conceptloom.attention.lag_config import LagConfig
from conceptloom.cli.scene_files import SCENE_FILE, scene_from_folder
from conceptloom.concepts.concept import Concept, stacked
from conceptloom.concepts.concept_file import load_concept
from conceptloom.concepts.fingerprints import content_key
from conceptloom.errors import ImageError, InputError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Progress
from conceptloom.methods.break_a_scene import learn_scene
from conceptloom.methods.personalized_residuals import (
    Localised,
    learn_residuals,
    residuals_of,
    sample_lag,
)
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.scenes.scene import ConceptScene, resized_scene
from conceptloom.training.runner import TrainingResult

from .common import (
    SPREAD,
    Found,
    Rows,
    add_cutter_options,
    add_encoder_options,
    add_run_options,
    cells_of,
    check_cutter,
    checkpoint_digest,
    decoded,
    describe_cutter,
    describe_run,
    each_folder,
    measures_of,
)
from .costs import cost_section, costs_of, learned_concept
from .encoders import MaskFormer, Measures
from .protocol import (
    BASE,
    BREAK_A_SCENE,
    CLIP_T,
    MASKED,
    MEANINGS,
    MEASURES,
    PAPER_TIMES,
    PROMPTS,
    RESIDUALS,
    Case,
    SimilarityBudget,
    cases_of,
    full_budget,
    measured,
    pooled,
    quick_budget,
)

LAG, LORA = "residuals with LAG", "residuals everywhere"
VARIANTS = {
    BREAK_A_SCENE: {BREAK_A_SCENE: None, BASE: None},
    RESIDUALS: {LAG: LagConfig(), LORA: LagConfig(localised=False), BASE: None},
}
# Name of what is learned -> the official settings with that part switched off, as on TinyWorld.
PARTS = {name: change for name, change in CHANGES.items() if name != WHOLE}


def variants_of(method: str, *, with_ablations: bool) -> Iterator[str]:
    """What is drawn with: the rows of the table."""
    for variant in VARIANTS[method]:
        if variant == BASE and with_ablations:
            yield from PARTS
        yield variant


@dataclass(frozen=True, slots=True)
class SceneWork:
    """A scene, what is asked of it, and the folder where its files are kept."""

    scene: ConceptScene
    method: str
    cases: tuple[Case, ...]
    folder: Path


def work_of(
    host: DiffusersHost, name: str, scene: ConceptScene, method: str, budget: SimilarityBudget,
    seed: int, cells: Path,
) -> SceneWork:  # fmt: skip
    """A scene with its folder: other settings, models or pictures have another one."""
    cases = tuple(cases_of(method, scene.words, budget.prompts))
    masks = [mask for picture in scene.images for mask in picture.masks.values()]
    given = {"images": [picture.image for picture in scene.images], "masks": masks}
    asked = [case.prompt for case in cases]
    settings = [str(host.dtype), seed, asdict(budget), dict(scene.words), asked]
    key = content_key(checkpoint_digest(host), settings, given)[:12]
    return SceneWork(scene, method, cases, cells / method / f"{name}-{key}")


def files_of(work: SceneWork, variant: str) -> dict[str, Path]:
    """Name of what a variant learns -> the file of its concept."""
    if variant == BASE:
        return {}
    if work.method == RESIDUALS:
        names = {name: name for name in work.scene.names}
    else:
        names = {variant: f"scene-{variant.replace(' ', '-')}" if variant in PARTS else "scene"}
    return {name: work.folder / f"{stem}.concept.safetensors" for name, stem in names.items()}


def learned(
    host: DiffusersHost, work: SceneWork, variant: str, budget: SimilarityBudget
) -> list[Concept]:
    """What a variant learns, from the folder, or taught now; stopped runs go on."""
    scene = work.scene

    def taught(name: str, states: Path, progress: Progress) -> TrainingResult:
        if work.method == BREAK_A_SCENE:
            config = CHANGES.get(variant, CHANGES[WHOLE])(budget.break_a_scene)
            return learn_scene(
                host, scene, config, previews=NO_PREVIEW, folder=states, progress=progress,
            )  # fmt: skip
        images = [picture.image for picture in scene.images if name in picture.masks]
        return learn_residuals(
            host, images, name, scene.words[name], budget.residuals,
            previews=NO_PREVIEW, folder=states, progress=progress,
        )  # fmt: skip

    return [
        learned_concept(path, host.device.type, partial(taught, name))
        for name, path in files_of(work, variant).items()
    ]


def draws(
    host: DiffusersHost,
    variant: str,
    concepts: Sequence[Concept],
    budget: SimilarityBudget,
    seed: int,
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
    host: DiffusersHost, work: SceneWork, variant: str, budget: SimilarityBudget, seed: int
) -> list[tuple[Case, Tensor]]:
    """[n, H, W, 3] of every case, from the folder; or drawn now, learned before if need be."""

    def drawn() -> Iterator[Tensor]:
        draw = draws(host, variant, learned(host, work, variant, budget), budget, seed)
        return (decoded(host, draw(case)) for case in work.cases)

    path = work.folder / f"{variant.replace(' ', '-')}.pictures.safetensors"
    return list(zip(work.cases, kept_pictures(path, drawn), strict=True))


# What the paper's ablation (Sec. 5.2) says that gets lost without a part, in our columns.
EXPECTATIONS = [
    Expectation(f"The {part.removeprefix('without ')} helps", BREAK_A_SCENE, part, column)
    for part, column in (
        ("without phase 1", CLIP_T),
        ("without masked loss", CLIP_T),
        ("without attention loss", MASKED),
        ("without union sampling", MASKED),
    )
]


def scenes_of(folder: Path) -> dict[str, ConceptScene]:
    """Name of a folder -> its scene.

    Raises:
        InputError: there is none, or a concept has no class word.
    """
    found = each_folder(
        folder, SCENE_FILE, lambda file: scene_from_folder(file.parent), "similarity/scenes.py"
    )
    for name, scene in found.items():
        if bare := [concept for concept, word in scene.words.items() if not word]:
            raise InputError(f"{name}: <{bare[0]}> needs a class word under 'words'.")
    return found


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


def run(options: Options) -> Result:
    """Learn, draw and measure every scene."""
    check_cutter(options)
    if options.ablations and options.method != BREAK_A_SCENE:
        raise SystemExit(f"--ablations are of {BREAK_A_SCENE}")
    scenes, method = scenes_of(options.scenes), options.method
    check(measures_of(options, "cpu"), scenes, method)
    host = open_model(options)
    side = options.resolution or picture_side(host)
    if method == BREAK_A_SCENE:  # residuals are learned from squares cut out of the pictures
        check_sizes(scenes, side, host.pixels_per_latent)
    budget = (quick_budget if options.quick else full_budget)(side, options.seed)
    variants = [*variants_of(method, with_ablations=options.ablations)]
    works: dict[str, SceneWork] = {}
    for name, scene in scenes.items():
        works[name] = work_of(host, name, scene, method, budget, options.seed, options.cells)
        for variant in variants:
            count = len(pictures(host, works[name], variant, budget, options.seed))
            print(f"{name}, {variant}: {count} prompts", flush=True)
    measures = measures_of(options, options.device)
    rows: dict[str, dict[str, Found]] = {variant: {} for variant in variants}
    elsewhere: dict[str, dict[str, Found]] = {variant: {} for variant in variants}
    for name, work in works.items():
        for variant in variants:
            drawn = pictures(host, work, variant, budget, options.seed)
            found = measured(measures, work.scene, drawn)
            rows[variant][name] = pooled(found)
            elsewhere[variant][name] = pooled(
                row for (case, _), row in zip(drawn, found, strict=True) if case.elsewhere
            )
    costs = {
        variant: costs_of(path for work in works.values()
                          for path in files_of(work, variant).values())
        for variant in variants if variant != LORA  # which is drawn with the concepts of LAG
    }  # fmt: skip
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, masks by {describe_cutter(options)}."
    about = [*describe_run(options, host, side, networks)]
    if method == RESIDUALS:
        about.append(describe_numbers(path for work in works.values()
                                      for path in files_of(work, LAG).values()))  # fmt: skip
    found = result_of(rows, elsewhere, method, budget, about, options.device)
    costs_told = cost_section(costs, PAPER_TIMES[method])
    return replace(found, sections=[*found.sections, costs_told])


def result_of(
    rows: Rows,
    elsewhere: Rows,
    method: str,
    budget: SimilarityBudget,
    about: Sequence[str],
    device: str,
) -> Result:
    """What the pictures gave.

    Args:
        rows: variant -> scene -> what its pictures gave.
        elsewhere: the same of the prompts that ask for another background alone.
    """
    scenes = len(next(iter(rows.values())))
    prompts = min(budget.prompts, len(PROMPTS[method]))
    told = (
        f"{scenes} scene(s), {prompts} prompts, {budget.pictures} picture(s) each, "
        f"{budget.sampling_steps} DDIM steps at guidance {budget.cfg:g}; the variants share their "
        f"noise. {BASE.capitalize()}: the class word alone, as far as words get. {SPREAD}"
    )
    cells = cells_of(rows)
    sections = [
        Section(table=spread_table("similarity", cells, rows, MEASURES, 3), after=MEANINGS),
        *_ablations(rows, budget),
        *_localising(rows, elsewhere),
    ]
    return Result(
        page=f"similarity_{method.replace('-', '_')}", **stamp(device),
        title=f"Similarity by the papers' protocol: {method}", about=[*about, told],
        sections=sections, claims=judged(cells, EXPECTATIONS, MEASURES),
    )  # fmt: skip


def _localising(rows: Rows, elsewhere: Rows) -> Iterator[Section]:
    """What it is good for that residuals work only where the object is."""
    if {LAG, LORA} <= set(rows):
        for name, of in (("all prompts", rows), ("another background", elsewhere)):
            yield Section(
                heading=f"What localising is good for: {name}",
                text="How much better LAG is than the same residuals added everywhere: mean over "
                "the same scenes ± standard error, bold beyond two. It is meant for "
                "residuals that have learned the background too: CLIP-T should gain. CLIP-I and "
                "DINO of whole pictures count such a background as likeness.",
                table=gain_table(name, cells_of(of), LAG, [LORA], MEASURES, 3),
            )


def _ablations(rows: Rows, budget: SimilarityBudget) -> Iterator[Section]:
    """What each part of Break-A-Scene is good for, if it was also learned without."""
    parts = [part for part in PARTS if part in rows]
    if parts:
        steps = without_phase_1(budget.break_a_scene).weight_phase.steps
        yield Section(
            heading="What each part contributes",
            text="How much better the whole method is than without the part: mean over the same "
            "scenes ± standard error, bold beyond two standard errors. Without phase 1 all "
            f"{steps} steps are of phase 2.",
            table=gain_table("parts", cells_of(rows), BREAK_A_SCENE, parts, MEASURES, 3),
        )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=list(PROMPTS), default=BREAK_A_SCENE)
    parser.add_argument("--scenes", type=Path, required=True, help="a folder of scene folders")
    parser.add_argument("--ablations", action="store_true", help="also without each of its parts")
    add_run_options(parser)
    add_encoder_options(parser, clip="CLIP ViT-L/14", dino="DINO ViT-B/16 (residuals: S/16)")
    add_cutter_options(parser)
