"""`conceptloom batch`: many concepts and pictures over many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import complain, say
from .output import writable_folder


def batch(
    plan: Annotated[Path, typer.Argument(help="A YAML file; the command's help shows one.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=writable_folder, help="Folder of the results.")
    ] = Path("runs/batch"),
    workers: Annotated[int, typer.Option("--workers", "-n", min=0, help="In plain Python.")] = 1,
    server: Annotated[
        list[str] | None,
        typer.Option(help="Address of a headless ComfyUI, a worker for workflows; repeat."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster, or auto; by default one on this machine."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="For each worker of --workers; 0.5 lets two share one.")
    ] = 0.0,
    retries: Annotated[int, typer.Option(min=0, help="When a worker is lost.")] = 2,
) -> None:
    """Do a table of work on many workers: learn concepts, draw every prompt with every seed and
    setting, run workflows. What is done already is not done again; a job whose worker is lost
    goes to another.

    \b
        model: tinyworld
        concepts:
          mug: {scene: scenes/mug, settings: {token_steps: 60}}
        pictures:
          - prompts: ["a photo of <my-mug> on the grass"]
            concepts: ["mug"]
            seeds: [1, 2, 3]
            settings: [{steps: 25, cfg: 3}]
        workflows:
          - {file: workflow-api.json, values: {"7.seed": [1, 2]}}

    A scene is a folder with a scene.json (see `conceptloom train --help`).
    """
    from ..errors import InputError

    try:
        from ..batch.run import run_batch
    except ImportError as error:
        raise InputError(f"Batches need `pip install 'conceptloom[batch]'`: {error}.") from error
    outcome, results = run_batch(
        plan,
        out,
        workers=workers,
        servers=server or [],
        address=address,
        gpus=gpus,
        retries=retries,
    )
    say(f"{len(outcome.done)} done now, {len(outcome.found)} before; {results}", "bold green")
    for job, why in outcome.failed:
        complain(f"{job.title}: {why}")
    for job in outcome.left:
        complain(f"{job.title}: left, for what it needs failed")
    if outcome.failed:
        raise typer.Exit(1)
