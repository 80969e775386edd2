"""TinyWorld: what the bundled model reaches, and each method on it at its preset's budget.

Measures the gates of the bundled checkpoint, then the whole method of the five quality subjects
with the steps of `methods/*/spec.py` on held-out members; no ablations. One seed of everything
comes first. A run that was stopped goes on, `--report` builds the page of what is finished.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from harness.experiment import Cell, Experiment, add_options, folder_of, sheet_path
from harness.results import Claim, Column, Result, Row, Section, Table, bound, stamp
from harness.statistics import Cells, cell_rows, means_of, spread_table
from harness.store import one_thread, save_sheet
from harness.subject import Options

from conceptloom.concepts.fingerprints import model_digest
from conceptloom.concepts.paths import write_atomically
from conceptloom.host.ports import Host
from conceptloom.tinyworld.checkpoint import CHECKPOINT, load_tinyworld, read_checkpoint
from conceptloom.tinyworld.recipe.gate_figures import Gate, drawn, measure, prompts_of
from conceptloom.tinyworld.recipe.gates import results
from conceptloom.tinyworld.sampling import GUIDANCE, STEPS
from conceptloom.viz.overlays import sample_strip

from . import break_a_scene, clic, conceptlab, lag, weave, world
from .tasks import SCENES, SUBJECTS, WEAVES

PAGE = "tinyworld"
NOTES = Path(__file__).with_name("tinyworld_notes.md")  # the page's last part, written by hand
SHOWN, SHEET_SEED = 12, 7  # pictures of one object, and as many of two
N_SCENES = 5  # of two members each

BAS, RESIDUALS, CLIC = "Break-A-Scene", "Personalized Residuals", "CLiC"
WEAVER, LAB = "Concept Weaver", "ConceptLab"


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure of a method, and the limit that it should keep.

    Attributes:
        row, measure: of the method's experiment.
    """

    method: str
    title: str
    row: str
    measure: str
    asked: float
    at_most: bool = False

    def claim(self, cells: Cells, planned: int) -> Claim:
        """The mean over the finished ones of the planned cells, beside the limit."""
        means = means_of(cells, self.row, self.measure)
        limit = {"at_most" if self.at_most else "at_least": self.asked}
        reached = float(means.mean()) if len(means) else None
        measured = f"mean of {len(means)} of {planned} cells"
        return bound(f"{self.method}: {self.title}", reached, measure=measured, **limit)


AIMS = (
    Aim(BAS, "identity alone", break_a_scene.WHOLE, "alone", 0.75),
    Aim(BAS, "identity together", break_a_scene.WHOLE, "together", 0.65),
    Aim(BAS, "leak", break_a_scene.WHOLE, "leak", 0.1, at_most=True),
    Aim(BAS, "background", break_a_scene.WHOLE, "background", 0.9),
    Aim(RESIDUALS, "identity as a LoRA", lag.PLAIN, "identity", 0.7),
    Aim(RESIDUALS, "identity with LAG", lag.LAG, "identity", 0.65),
    Aim(RESIDUALS, "background with LAG", lag.LAG, "background", 0.95),
    Aim(CLIC, "identity of the ornament", clic.WHOLE, "right", 0.6),
    Aim(CLIC, "change outside the mask", clic.WHOLE, "pasted", 0.0, at_most=True),
    Aim(WEAVER, "identity of a region", weave.WHOLE, "identity", 0.65),
    Aim(WEAVER, "mixing", weave.WHOLE, "mixing", 0.05, at_most=True),
    Aim(LAB, "new inventions", conceptlab.ADAPTIVE, "new", 0.6),
)


def experiments_of(host: Host, options: Options) -> dict[str, Experiment]:
    """Method -> its experiment, with the whole method alone; the cells are those of its own page.

    The cheapest come first.
    """
    made: dict[str, Experiment] = {
        LAB: conceptlab.experiment_of(host, options),
        WEAVER: weave.experiment_of(host, options),
        RESIDUALS: lag.experiment_of(host, options),
        CLIC: clic.experiment_of(host, options),
        BAS: break_a_scene.experiment_of(host, options),
    }
    wanted = {
        BAS: [task.name for task in SCENES[:N_SCENES]],
        RESIDUALS: list(SUBJECTS),
        WEAVER: [task.name for task in WEAVES if len(task.concepts) == 2],
    }
    for method, experiment in made.items():
        if method != RESIDUALS:  # whose cells give a row for each way of drawing
            experiment.variants = experiment.rows = (experiment.whole,)
        chosen = wanted.get(method, experiment.things)
        experiment.things = [thing for thing in experiment.things if thing in chosen]
    return made


def cells_of(experiments: Mapping[str, Experiment]) -> Iterator[tuple[str, Cell]]:
    """One seed of every method before the next."""
    every = [(method, cell) for method, one in experiments.items() for cell in one.cells()]
    yield from sorted(every, key=lambda pair: pair[1].seed)


class Gates:
    """The gates of the bundled checkpoint and a sheet of samples, measured once.

    Args:
        folder: of this checkpoint.
        count: prompts of each kind.
        file: that `recipe.gates` wrote of this checkpoint; None measures them here.
    """

    def __init__(
        self, folder: Path, count: int, file: Path | None = None, *, is_quick: bool = False
    ) -> None:
        self._file, self.sheet = file or folder / f"gates-{count}.json", folder / "samples.jpg"
        self._count, self._shown = count, 1 if is_quick else SHOWN

    def compute(self) -> None:
        """Draw the sheet and measure every gate, where they are not there."""
        began, model = time.process_time(), load_tinyworld(CHECKPOINT)
        if not self.sheet.is_file():
            prompts = [p.text for n in (1, 2) for p in prompts_of(self._shown, n, SHEET_SEED)]
            pictures = drawn(model, prompts, SHEET_SEED)
            save_sheet(sample_strip(pictures, prompts, n_columns=6), self.sheet)
        if not self._file.is_file():
            gates = measure(model, CHECKPOINT, self._count)
            document = results(gates, CHECKPOINT, self._count)
            write_atomically(self._file, [json.dumps(document, indent=1).encode()])
            sys.stderr.write(f"gates: {time.process_time() - began:.0f} s of CPU\n")

    def read(self) -> tuple[list[Gate], int]:
        """The gates, none where they are not measured yet, and the prompts of each kind."""
        if not self._file.is_file():
            return [], self._count
        document = json.loads(self._file.read_text(encoding="utf-8"))
        known = {one.name for one in fields(Gate)}
        gates = [Gate(**{k: gate[k] for k in known & set(gate)}) for gate in document["gates"]]
        return gates, document["prompts"]


GATE_COLUMNS = (
    Column(key="gate", title="gate", is_text=True),
    Column(key="asked", title="asked", is_text=True),
    Column(key="reached", title="reached", is_text=True),
    Column(key="ceiling", title="judge on true pictures", is_text=True),
    Column(key="passed", title="passed", is_text=True),
)


def gate_row(gate: Gate) -> Row:
    """A gate as the table shows it."""
    asked = f"{'at most ' if gate.at_most else ''}{gate.asked:g} {gate.unit}".strip()
    ceiling = "" if gate.ceiling is None else f"{gate.ceiling:g} {gate.unit}".strip()
    return {
        "gate": gate.name,
        "asked": asked,
        "reached": f"{gate.reached:g} {gate.unit}".strip(),
        "ceiling": ceiling,
        "passed": "yes" if gate.passed else "**no**",
    }


def gate_claim(gate: Gate) -> Claim:
    limit = {"at_most" if gate.at_most else "at_least": gate.asked}
    says = f"TinyWorld's gates: {gate.name}{f', {gate.unit}' if gate.unit else ''}"
    return bound(says, gate.reached, **limit)


def gate_section(gates: Sequence[Gate], count: int) -> Section:
    """The gates, and what training took."""
    training = read_checkpoint(CHECKPOINT).training
    return Section(
        text=f"The base model: {count} prompts of each kind, {STEPS} DDIM steps, guidance "
        f"{GUIDANCE:g}.",
        table=Table(name="gates", columns=GATE_COLUMNS, rows=[gate_row(gate) for gate in gates]),
        after=f"Trained for {training['minutes']} minutes on {training['samples']} samples, batch "
        f"{training['batch']}, learning rate {training['learning_rate']}; the autoencoder for "
        f"{training['autoencoder_minutes']} minutes before that.",
    )


def method_section(method: str, experiment: Experiment, cells: Cells) -> Section:
    """Every measure of a method's finished cells."""
    measures = [m for m in experiment.measures if len(means_of(cells, experiment.whole, m.key))]
    table = spread_table(method, cells, experiment.rows, measures, experiment.digits)
    meanings = "\n".join(f"* {one.title}: {one.meaning}." for one in measures)
    return Section(heading=method, text=experiment.about()[0], table=table, after=meanings)


def result_of(experiments: Mapping[str, Experiment], gates: Gates, digest: str) -> Result:
    """The result of what is finished."""
    finished = {method: one.finished() for method, one in experiments.items()}
    planned = {method: len(list(one.cells())) for method, one in experiments.items()}
    claims = [aim.claim(finished[aim.method], planned[aim.method]) for aim in AIMS]
    reached, count = gates.read()
    sections = [gate_section(reached, count)] if reached else []
    sections += [
        method_section(method, experiments[method], finished[method])
        for method in dict.fromkeys(aim.method for aim in AIMS)
        if finished[method]
    ]
    notes = NOTES.read_text(encoding="utf-8").strip()
    sections.append(Section(heading="What was tried, and what limits it", text=notes))
    picture = None
    if gates.sheet.is_file():
        sheet_path(PAGE).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(gates.sheet, sheet_path(PAGE))
        picture = (f"{PAGE}.jpg", "Samples of the base model")
    return Result(
        **stamp("cpu", "one CPU thread", f"base model {digest[:12]}"),
        about=[ABOUT], sections=sections, picture=picture,
        claims=[*map(gate_claim, reached), *claims],
        claims_about=CLAIMS_ABOUT,
        cells=[{"method": m, **row} for m, cells in finished.items() for row in cell_rows(cells)],
    )  # fmt: skip


ABOUT = (
    "The bundled model, and the five methods on held-out members at the budget of their TinyWorld "
    "presets, as one judge sees them. All variants of the methods: the pages of each method."
)
CLAIMS_ABOUT = (
    "The aims of the bundled model. A cell is one scene, member, ornament, template or category "
    "with one seed."
)


def run(options: Options) -> Result:
    """Measure what is missing, unless only the report is wanted."""
    one_thread()
    host = world.open_model()
    digest = model_digest(host)
    folder = folder_of(PAGE, digest)
    experiments = experiments_of(host, options)
    count = 2 if options.quick else options.count
    gates = Gates(folder, count, options.gates, is_quick=options.quick)
    if not options.report:
        number, of = options.part
        if number == 1:
            gates.compute()
        cells = list(cells_of(experiments))[number - 1 :: of]
        for index, (method, cell) in enumerate(cells, 1):
            if experiments[method].kept(cell) is None:
                experiments[method].complete(cell, f"{index}/{len(cells)} {method}")
    return result_of(experiments, gates, digest)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, seeds=3)
    parser.add_argument("--count", type=int, default=256, help="prompts of each gate")
    parser.add_argument("--gates", type=Path, help="JSON of recipe.gates, instead of measuring it")
