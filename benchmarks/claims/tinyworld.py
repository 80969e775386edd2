"""TinyWorld: what the bundled checkpoint reaches, gate by gate."""

from __future__ import annotations

import argparse

import torch
from harness.experiment import sheet_path
from harness.results import Claim, Column, Result, Row, Section, Status, Table, stamp
from harness.store import save_sheet
from harness.subject import Options, add_common_options

from conceptloom.tinyworld.checkpoint import (
    CHECKPOINT,
    TinyWorldModules,
    load_tinyworld,
    read_checkpoint,
)
from conceptloom.tinyworld.recipe.gate_figures import Gate, drawn, measure, prompts_of
from conceptloom.tinyworld.sampling import GUIDANCE, STEPS
from conceptloom.viz.overlays import sample_strip

PAGE = "tinyworld"

SHOWN, SHEET_SEED = 12, 7  # pictures of one object, and as many of two
COLUMNS = (
    Column(key="gate", title="gate", is_text=True),
    Column(key="asked", title="asked", is_text=True),
    Column(key="reached", title="reached", is_text=True),
    Column(key="ceiling", title="judge on true pictures", is_text=True),
    Column(key="passed", title="passed", is_text=True),
)


def row_of(gate: Gate) -> Row:
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


def claim_of(gate: Gate) -> Claim:
    limit = {"at_most": gate.asked} if gate.at_most else {"at_least": gate.asked}
    status = Status.MET if gate.passed else Status.MISSED
    says = f"TinyWorld's gates: {gate.name}{f', {gate.unit}' if gate.unit else ''}"
    return Claim(says=says, found=gate.reached, status=status, **limit)


def result_of(gates: list[Gate], count: int) -> Result:
    """The gates, and what training took."""
    training = read_checkpoint(CHECKPOINT).training
    about = f"{count} prompts of each kind, {STEPS} DDIM steps, guidance {GUIDANCE:g}."
    after = (
        f"Trained for {training['minutes']} minutes on {training['samples']} samples, batch "
        f"{training['batch']}, learning rate {training['learning_rate']}; the autoencoder for "
        f"{training['autoencoder_minutes']} minutes before that."
    )
    table = Table(name="gates", columns=COLUMNS, rows=[row_of(gate) for gate in gates])
    return Result(
        **stamp("cpu"), about=[about], sections=[Section(table=table, after=after)],
        claims=[claim_of(gate) for gate in gates],
        picture=(f"{PAGE}.jpg", "Samples"),
    )  # fmt: skip


def sheet_of(world: TinyWorldModules, shown: int) -> torch.Tensor:
    """Samples of prompts of one and of two objects over their prompts; [H, W, 3]."""
    prompts = [p.text for n in (1, 2) for p in prompts_of(shown, n, SHEET_SEED)]
    return sample_strip(drawn(world, prompts, SHEET_SEED), prompts, n_columns=6)


def run(options: Options) -> Result:
    """Measure every gate, and draw the sheet of samples."""
    torch.set_num_threads(1)
    count = 2 if options.quick else options.count
    world = load_tinyworld(CHECKPOINT)
    gates = measure(world, CHECKPOINT, count)
    save_sheet(sheet_of(world, 1 if options.quick else SHOWN), sheet_path(PAGE))
    return result_of(gates, count)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--count", type=int, default=256, help="prompts of each kind")
