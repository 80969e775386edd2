"""Concept Weaver's similarity and time on a real checkpoint, by the paper's protocol.

WEAVES holds a folder for each picture to weave, with a `weave.json` that ties together a template,
its sentence, and concepts with their pictures; similarity/weave_jobs.py shows one. Regions of the
template come from mask pictures, or from --maskformer or --detector and --sam.

Every concept is learned into a bank by the paper's recipe, the template is inverted, and woven by
the whole method, with a part of it switched off, and by what else there is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from harness.experiment import sheet_path
from harness.machine import settle
from harness.models import open_model, picture_side
from harness.results import Column, Result, Row, Section, Table, stamp
from harness.statistics import Measure, spread_table
from harness.store import NO_PREVIEW, kept_pictures, save_sheet
from harness.subject import Options
from torch import Tensor

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.fingerprints import content_key
from conceptloom.errors import MaskError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Progress
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Template,
    learn_for_bank,
    make_template,
    weave,
)
from conceptloom.scenes.scene import make_scene, resized_scene
from conceptloom.training.runner import TrainingResult
from conceptloom.viz.overlays import sample_strip

from .common import (
    SPREAD,
    Found,
    add_cutter_options,
    add_encoder_options,
    add_run_options,
    cells_of,
    check_cutter,
    checkpoint_digest,
    describe_cutter,
    describe_run,
    measures_of,
)
from .costs import cost_section, costs_of, learned_concept
from .encoders import Cutter, Measures, square_around
from .weave_jobs import (
    BASE,
    NOTES,
    PUBLISHED,
    PUBLISHED_SECONDS,
    VARIANTS,
    Part,
    WeaveJob,
    WeaveSimilarityBudget,
    full_budget,
    quick_budget,
    regions_of,
    weaves_of,
)

PAGE = "similarity_weave"

Masks = Mapping[str, Tensor]  # name of a concept -> its region [H, W]


@dataclass(frozen=True, slots=True)
class Times:
    """What a weave took, and how well its template comes back."""

    inversion: float  # seconds; done once for all variants
    fusion: float  # seconds
    psnr: float  # decibel, of the template drawn again


class Weaver:
    """One weave; what its variants share is made when the first of them needs it.

    Args:
        cells: below which concepts lie that weaves may share.
    """

    def __init__(
        self,
        host: DiffusersHost,
        job: WeaveJob,
        masks: Masks,
        budget: WeaveSimilarityBudget,
        cells: Path,
    ) -> None:
        self._host, self._job, self._masks = host, job, masks
        self._budget, self._cells = budget, cells

    @cached_property
    def _bank(self) -> dict[str, Concept]:
        return {part.name: self._learned(part) for part in self._job.every}

    def _learned(self, part: Part) -> Concept:
        """A concept from its file, or taught now; a stopped run goes on."""

        def learn(states: Path, progress: Progress) -> TrainingResult:
            return learn_for_bank(
                self._host, part.taught, self._budget.bank, folder=states, progress=progress,
                previews=NO_PREVIEW,
            )  # fmt: skip

        return learned_concept(self._file_of(part), self._host.device.type, learn)

    def _file_of(self, part: Part) -> Path:
        images = {"images": [picture.image for picture in part.taught.images]}
        settings = [str(self._host.dtype), asdict(self._budget.bank), part.name, part.word]
        key = content_key(checkpoint_digest(self._host), settings, images)[:12]
        return self._cells / f"{part.name}-{key}.concept.safetensors"

    @property
    def files(self) -> list[Path]:
        """Of its concepts, also before they are learned."""
        return [self._file_of(part) for part in self._job.every]

    @cached_property
    def _inverted(self) -> tuple[Template, float]:
        """The template, and the seconds that it took."""
        began, host = self._now(), self._host
        sigmas = host.noise_path.levels(self._budget.steps)
        image, sentence = self._job.template[None], self._job.sentence
        found = make_template(host, image, sentence, sigmas, InversionConfig())
        return found, self._now() - began

    def _now(self) -> float:
        settle(self._host.device.type)
        return time.perf_counter()

    def drawn(self, variant: str) -> tuple[Tensor, Times]:
        """The picture [1, H, W, 3] of a variant, and what it took."""
        regions = regions_of(self._job, self._masks, self._bank, variant)
        template, inversion = self._inverted
        began = self._now()
        image = weave(self._host, template, regions, VARIANTS[variant]).image
        return image, Times(inversion, self._now() - began, template.psnr)


def kept(weaver: Weaver, variant: str, folder: Path) -> tuple[Tensor, Times]:
    """The picture [H, W, 3] of a variant from its file, or drawn now; and what it took."""
    path = folder / f"{variant.replace(' ', '-').replace(',', '')}.pictures.safetensors"
    beside = path.with_suffix(".json")

    def drawn() -> Iterator[Tensor]:
        image, times = weaver.drawn(variant)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(asdict(times)), encoding="utf-8")
        yield image

    (images,) = kept_pictures(path, drawn)
    return images[0], Times(**json.loads(beside.read_text(encoding="utf-8")))


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
    options: Options,
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


CLIP_T, CLIP_I, DINO = "CLIP-T", "CLIP-I of crops", "DINO of crops"
COLUMNS = (CLIP_T, CLIP_I, DINO)
MEANINGS = f"""\
* {CLIP_T}: cosine of the whole picture and the sentence with its class words.
* {CLIP_I}, {DINO}: mean cosine of the square around a concept's region with every taught
  picture of it; with the square around the object there where its pictures came with masks. A
  background's concept is not among them."""
CAVEAT = (
    "What the paper tells of its own pictures, which are not these; it does not name the CLIP "
    "model, and figures of two models cannot be compared. Read the order, not the numbers."
)


def taught_pictures(part: Part) -> list[Tensor]:
    """What a concept was learned from, cut to the object where masks say where it is."""
    shown = [(picture.image, picture.masks[part.name]) for picture in part.taught.images]
    return [image if mask.min() == 1 else square_around(image, mask) for image, mask in shown]


def measured(
    measures: Measures, job: WeaveJob, masks: Masks, drawn: Mapping[str, Tensor]
) -> dict[str, Found]:
    """What the pictures of a weave give, by variant.

    Args:
        masks: of the size of the pictures.
        drawn: variant -> [H, W, 3].
    """

    def seen(column: str, images: Sequence[Tensor]) -> Tensor:
        """[n, D] of pictures [H, W, 3] of any sizes; square ones are seen whole."""
        if column == CLIP_I:
            return torch.cat([measures.clip.of_images(image[None]) for image in images])
        return torch.cat([measures.dino.of_images(image[None], margin=1.0) for image in images])

    sentence = measures.clip.of_texts([job.sentence])[0]
    taught = {(column, part.name): seen(column, taught_pictures(part))
              for column in (CLIP_I, DINO) for part in job.parts}  # fmt: skip
    found: dict[str, Found] = {}
    for variant, image in drawn.items():
        row = {CLIP_T: [float(measures.clip.of_images(image[None])[0] @ sentence)]}
        crops = [square_around(image, masks[part.name]) for part in job.parts]
        for column in (CLIP_I, DINO):
            row[column] = [
                float((crop @ taught[column, part.name].T).mean())
                for part, crop in zip(job.parts, seen(column, crops), strict=True)
            ]
        found[variant] = row
    return found


COLUMN_MEASURES = [Measure(column, column, "") for column in COLUMNS]


def run(options: Options) -> Result:
    """Learn, weave and measure every job."""
    check_cutter(options)
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
    rows: dict[str, dict[str, Found]] = {variant: {} for variant in VARIANTS}
    for name, (job, masks) in fits.items():
        for variant, row in measured(measures, job, masks, pictures[name]).items():
            rows[variant][name] = row
    networks = f"CLIP `{options.clip}`, DINO `{options.dino}`, regions that no mask gave by "
    about = [*describe_run(options, host, side, f"{networks}{describe_cutter(options)}.")]
    about.append(
        f"{len(fits)} weave(s). Concepts learned in K and V, {budget.bank.weight_phase.steps} "
        f"steps each; {budget.steps} steps of inversion and of the sampler at guidance "
        f"{VARIANTS[BASE].cfg:g}. {SPREAD}"
    )
    save_sheet(sheet({n: job for n, (job, _) in fits.items()}, pictures), sheet_path(PAGE))
    told = "\n".join([MEANINGS, *(f"* {variant}: {note}." for variant, note in NOTES.items())])
    table = spread_table("similarity", cells_of(rows), rows, COLUMN_MEASURES, 3)
    costs = {"a concept of the bank": costs_of(sorted(concepts))}
    sections = [
        Section(table=table, after=told),
        published(),
        time_section(times),
        cost_section(costs, "The paper reports none."),
    ]
    return Result(
        **stamp(options.device, options.dtype),
        about=about, sections=sections,
        picture=(f"{PAGE}.jpg", "The template and every variant, a row for each weave"),
    )  # fmt: skip


def published() -> Section:
    """The paper's own figures."""
    rows = [
        {"method": name, "text": text, "image": image} for name, (text, image) in PUBLISHED.items()
    ]
    columns = [
        Column(key="method", title="method", is_text=True),
        Column(key="text", title="CLIP text", digits=4),
        Column(key="image", title="CLIP image", digits=4),
    ]
    table = Table(name="published", columns=columns, rows=rows)
    return Section(heading="The paper's own figures", table=table, after=CAVEAT)


def time_section(times: Mapping[str, Mapping[str, Times]]) -> Section:
    """A row for each variant, and how well the templates come back."""
    rows: list[Row] = []
    for variant, weaves in times.items():
        inversion = float(np.mean([one.inversion for one in weaves.values()]))
        fusion = float(np.mean([one.fusion for one in weaves.values()]))
        rows.append(
            {
                "variant": variant,
                "inversion": inversion,
                "fusion": fusion,
                "sum": inversion + fusion,
            }
        )
    titles = {"inversion": "inversion", "fusion": "fusion", "sum": "together"}
    columns = [Column(key="variant", title="variant", is_text=True)]
    columns += [Column(key=key, title=title, digits=1) for key, title in titles.items()]
    back = [one.psnr for weaves in times.values() for one in weaves.values()]
    to_noise = 1 + InversionConfig().refinements
    return Section(
        heading="Seconds of a weave",
        table=Table(name="times", columns=columns, rows=rows),
        after=f"Wall time, mean over the weaves, concepts learned before. The paper: "
        f"{PUBLISHED_SECONDS} seconds on an RTX 3090. The templates come back with "
        f"{min(back):.1f} to {max(back):.1f} dB. Inversion is {to_noise} passes a step to the "
        "noise, one to draw the template again (which nothing but these dB needs) and, where "
        "features are kept, one that is cut short.",
    )


def sheet(jobs: Mapping[str, WeaveJob], drawn: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """[H, W, 3] the template and every variant, a row for each weave."""
    images: list[Tensor] = []
    captions: list[str] = []
    for name, job in jobs.items():
        images += [job.template, *drawn[name].values()]
        captions += [name, *drawn[name]]
    return sample_strip(images, captions, n_columns=1 + len(VARIANTS))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weaves", type=Path, required=True, help="a folder of weave folders")
    add_run_options(parser)
    add_encoder_options(parser, clip="CLIP, as the paper ViT-B/32", dino="DINO ViT-B/16")
    add_cutter_options(parser)
