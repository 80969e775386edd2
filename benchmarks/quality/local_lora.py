"""Several LoRAs in one picture: localised, merged, by hooks, in two passes, under true masks.

LoRAs of held-out members, trained by a plain loop, are drawn in sets of two, three and four; every
ingredient of the engine is taken out in turn. TinyWorld's judge says what the pictures show.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from harness.experiment import (
    Cell,
    Experiment,
    Found,
    add_options,
    budget_of,
    folder_of,
    perform,
)
from harness.results import Result, Section
from harness.statistics import Cells, Expectation, Measure, gain_table
from harness.store import as_bytes
from harness.subject import Options
from torch import Tensor

from conceptloom.attention.local_lora import LocalLora
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.samplers.ddim import seeded_noise
from conceptloom.scenes.masks import dilate
from conceptloom.tinyworld.captions import article
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.named import identity_of
from conceptloom.tinyworld.judge.scores import leaked
from conceptloom.tinyworld.shapes import BACKGROUNDS

from . import world
from .local_ways import (
    ABLATIONS,
    ALONE,
    BASE,
    HOOKS,
    LATE_HOOKS,
    LOCAL,
    MAIN,
    MERGED,
    SAME_PROMPT,
    SETTINGS,
    TRUE,
    TWO_PASSES,
    WAYS,
    WEAKER,
    Picture,
    Way,
)
from .lora_training import Training, local_lora
from .tasks import LORA_SETS, LORAS, OTHER, TUNING_SETS, LoraSet

PAGE = "local_lora_quality"
TOGETHER, BESIDE = "together", "beside"
EXPECTATIONS = (
    Expectation("Likeness within 0.05 of a LoRA alone", LOCAL, ALONE, "likeness", 0.05),
    *(
        Expectation("The members are more alike", LOCAL, other, "likeness")
        for other in (MERGED, WEAKER, HOOKS, LATE_HOOKS, TWO_PASSES, BASE)
    ),
    Expectation("Located masks serve like true ones", LOCAL, TRUE, "likeness", 0.02),
    Expectation("More of them are recognised", LOCAL, MERGED, "identity"),
    Expectation("The number of objects is right more often", LOCAL, MERGED, "number"),
    Expectation("The rest of the picture stays", LOCAL, MERGED, "changed"),
    Expectation("Other objects are lost less often", LOCAL, MERGED, "other"),
)
MEASURES = (
    Measure(
        "likeness", "likeness",
        "cosine of the judge's description with each LoRA's member, best object found",
    ),
    Measure("nearest", "nearest", "share of LoRAs whose member is the nearest of 16 of its class"),
    Measure(
        "identity", "identity", "share of LoRAs whose member the judge recognises: nearest and "
        "as similar as true pictures are",
    ),
    Measure(
        "doubles", "doubles", "share of pictures that show a class more often than asked", False
    ),
    Measure("number", "number", "share of pictures with as many objects as asked"),
    Measure("background", "background", "share of pictures on the requested background"),
    Measure(
        "changed", "changed", "mean change of pixels (0..255) against the base model's picture of "
        "the same prompt and noise, where neither shows an object", False,
    ),
    Measure("other", "other", f"one LoRA beside {article(OTHER)}: share of pictures that show it"),
)  # fmt: skip
AIMS = (("likeness", 2.0, MERGED), ("identity", 0.6, ALONE))


@dataclass(frozen=True, slots=True)
class LoraBudget:
    """How much work a cell is."""

    training: Training
    pictures: int  # of a set with one seed
    steps: int
    sets: int


def budgets() -> dict[str, LoraBudget]:
    """Training is the same in every real budget: less of it makes other LoRAs."""
    full = LoraBudget(Training(), 8, 20, len(LORA_SETS))
    return {
        "full": full,
        "short": replace(full, pictures=4, sets=6),
        "quick": LoraBudget(Training(steps=1, batch_size=1), 1, 8, 1),
    }


class LocalLoraExperiment(Experiment):
    """Cells are (set, seed, way); a way is a row."""

    whole, measures, expectations = LOCAL, MEASURES, EXPECTATIONS
    shows_gains = False

    def __init__(
        self, host: Host, model: str, budget: LoraBudget, folder: Path, seeds: int,
        sets: Sequence[LoraSet], variants: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(folder, seeds)
        self.host, self.model, self.budget = host, model, budget
        self.sets = {one.name: one for one in sets[: budget.sets]}
        self.things, self.variants = list(self.sets), tuple(variants)
        self.rows = [name for name in WAYS if name in variants]
        self.notes = {name: WAYS[name].about for name in self.rows}

    def key(self, cell: Cell) -> str:
        way = WAYS[cell.variant]
        return repr([way.about, asdict(way.config), self.sets[cell.thing].background])

    def cells(self) -> Iterator[Cell]:
        """What is compared first, of every set, before ingredients are taken out."""
        for ways in (MAIN, ABLATIONS, SETTINGS):
            for seed in range(self.seeds):
                for thing in self.things:
                    for variant in ways:
                        if variant in self.variants:
                            yield Cell(thing, seed, variant)

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures [n, H, W, 3], 0..255, by "together", "beside", or the name of the LoRA alone."""
        way, one = WAYS[cell.variant], self.sets[cell.thing]
        loras = {name: self._lora(name, way) for name in one.members}
        share = -(-self.budget.pictures // len(loras))
        if way.alone:
            return {
                name: self._draw(way, cell, [name], share, {name: lora})
                for name, lora in loras.items()
            }, {}
        found = {TOGETHER: self._draw(way, cell, one.members, self.budget.pictures, loras)}
        if way.beside:
            first = one.members[0]
            own = {first: loras[first]}
            found[BESIDE] = self._draw(way, cell, [first, OTHER], share, own)
        return found, {}

    def _lora(self, name: str, way: Way) -> LocalLora:
        return local_lora(self.host, self.model, LORAS[name], self.budget.training, way.config)

    def _draw(
        self, way: Way, cell: Cell, things: Sequence[str], count: int,
        loras: Mapping[str, LocalLora],
    ) -> Tensor:  # fmt: skip
        place = BACKGROUNDS[self.sets[cell.thing].background]
        noise = seeded_noise(self.host, 1000 + cell.seed, count, world.PICTURE)
        truth = torch.zeros(count, len(loras), *noise.shape[-2:])
        if way in (WAYS[TRUE], WAYS[HOOKS], WAYS[LATE_HOOKS]):
            truth = self._true_masks(cell, things)
        picture = Picture(
            self.host, _sentence(things, place, plain=way.plain), noise, self.budget.steps, truth
        )
        latent = way.draw(picture, list(loras.values()))
        return as_bytes(self.host.decode_latent(latent))

    def _true_masks(self, cell: Cell, members: Sequence[str]) -> Tensor:
        """Of the base model's objects [n, G, h, w], a cell wider; 0 where it drew none."""
        base = cell._replace(variant=SAME_PROMPT)
        kept = self.kept(base) or self.make(base)[0]
        side = self.host.pixels_per_latent
        found: list[Tensor] = []
        for image in kept[TOGETHER]:
            masks = torch.stack([_of_member(image, name, members) for name in members])
            small = torch.nn.functional.avg_pool2d(masks[None], side)[0]
            small = dilate((small > 0.5).float(), 1)
            found.append(small / small.sum(0, keepdim=True).clamp_min(1))
        return torch.stack(found)

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        found: Found = {measure.key: [] for measure in self.measures}
        one = self.sets[cell.thing]
        base = self.kept(cell._replace(variant=SAME_PROMPT))
        for kind, images in kept.items():
            plain = base[kind] if base and kind in base else None
            for i, image in enumerate(images):
                if kind == BESIDE:
                    seen = [f"{o.colour} {o.kind}" for o in load_judge().find(image)]
                    found["other"].append(float(OTHER in seen))
                    continue
                names = one.members if kind == TOGETHER else (kind,)
                _add(image, names, one.background, found)
                if plain is not None:
                    found["changed"] += _changed(image, plain[i])
        return {cell.variant: found}

    def about(self) -> list[str]:
        budget = self.budget
        sizes = sorted({str(len(one.members)) for one in self.sets.values()})
        return [
            f"{len(self.sets)} sets of {', '.join(sizes)} LoRAs, "
            f"{budget.pictures} pictures of each and seed, {self.seeds} seed(s), "
            f"{budget.steps} DDIM steps; all ways share their noise. LoRAs: rank "
            f"{budget.training.rank} on all linear layers of transformers and text encoder, "
            f"{budget.training.steps} steps of {budget.training.batch_size} by a plain loop "
            "outside of this pack's trainers."
        ]

    def more_sections(self, cells: Cells) -> list[Section]:
        sections = [Section(heading="Against the aims", text=_aims(cells))]
        for heading, ways in (("Every ingredient taken out", ABLATIONS), ("Settings", SETTINGS)):
            rows = [LOCAL, *(name for name in ways if name in self.variants)]
            if len(rows) > 1:
                table = gain_table(heading.split()[0].lower(), cells, LOCAL, rows, self.measures)
                told = (
                    "Gain of *localised* over the row, positive: the row is worse; bold beyond two"
                )
                text = f"{told} standard errors."
                sections.append(Section(heading=heading, text=text, table=table))
        return sections


def _sentence(things: Sequence[str], place: str, *, plain: bool) -> str:
    """A prompt; members by trigger and words, or by their words alone."""
    told = [
        article(name) if name not in LORAS
        else article(LORAS[name].words) if plain
        else LORAS[name].told
        for name in things
    ]  # fmt: skip
    listed = " and ".join(filter(None, [", ".join(told[:-1]), told[-1]]))
    return f"a photo of {listed} {place}"


def _of_member(image: Tensor, name: str, members: Sequence[str]) -> Tensor:
    """Mask [H, W] of the object that stands for a member; its colour counts among several."""
    task = LORAS[name]
    own = [found for found in world.found_in(image) if found.kind == task.kind]
    if [LORAS[member].kind for member in members].count(task.kind) > 1:
        own = [found for found in own if found.colour == task.colour]
    return own[0].mask.float() if own else torch.zeros(image.shape[:2])


def _add(image: Tensor, names: Sequence[str], background: str, into: Found) -> None:
    """What a picture [H, W, 3] shows of the members that were asked for."""
    judge = load_judge()
    objects = judge.find(image)
    verdicts = [identity_of(objects, name) for name in names]
    kinds = {name: LORAS[name].kind for name in names}
    into["likeness"] += [verdict.similarity for verdict in verdicts]
    into["nearest"] += [float(v.nearest == n) for v, n in zip(verdicts, names, strict=True)]
    into["identity"] += [float(verdict.right) for verdict in verdicts]
    into["doubles"].append(float(bool(leaked(objects, kinds, names))))
    into["number"].append(float(len(objects) == len(names)))
    into["background"].append(float(judge.background(image) == background))


def _changed(image: Tensor, plain: Tensor) -> list[float]:
    """Mean change where neither picture shows an object; nothing where they cover everything."""
    masks = [found.mask for found in (*world.found_in(image), *world.found_in(plain))]
    empty = ~torch.stack([*masks, torch.zeros(image.shape[:2], dtype=torch.bool)]).any(dim=0)
    change = (image.float() - plain.float()).abs().mean(dim=-1)
    return [float(change[empty].mean())] if bool(empty.any()) else []


def _aims(cells: Cells) -> str:
    """How near the engine comes to what was asked of it."""
    told: list[str] = []
    for key, wanted, row in AIMS:
        shared = {(t, s) for t, s, r in cells if r == LOCAL} & {
            (t, s) for t, s, r in cells if r == row
        }
        mine, theirs = (
            [v for t, s in shared for v in cells[t, s, name][key]] for name in (LOCAL, row)
        )
        if mine and sum(theirs):
            ratio = (sum(mine) / len(mine)) / (sum(theirs) / len(theirs))
            told.append(f"{key} is {ratio:.2f} of that of *{row}* (aim: {wanted:g})")
    return f"Localised: {'; '.join(told)}." if told else "Nothing is there to compare yet."


def run(options: Options) -> Result:
    """Train, draw and judge every set in every way."""
    host, budget = world.open_model(), budget_of(options, budgets())
    model = model_digest(host)
    sets = TUNING_SETS if options.tuning else LORA_SETS
    folder = folder_of(PAGE, model, asdict(budget))
    ways = options.ways or [*MAIN, *ABLATIONS, *(SETTINGS if options.tuning else ())]
    if unknown := [name for name in ways if name not in WAYS]:
        raise SystemExit(f"No way {unknown[0]!r}; there are {', '.join(WAYS)}.")
    seeds = 1 if options.quick else options.seeds
    experiment = LocalLoraExperiment(host, model, budget, folder, seeds, sets, ways)
    return perform(experiment, options, PAGE, model)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, seeds=2)
    parser.add_argument(
        "--tuning", action="store_true", help="the sets that settings are chosen on, with settings"
    )
    parser.add_argument("--ways", nargs="+", help="only these")
