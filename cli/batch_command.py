"""`conceptloom batch`: many concepts and pictures over many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import complain, say
from .options import writable_folder


def batch(
    plan: Annotated[
        Path, typer.Argument(help="A YAML file; the help of this command shows an example.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=writable_folder, help="Folder of the results.")
    ] = Path("runs/batch"),
    workers: Annotated[
        int, typer.Option("--workers", "-n", min=0, help="Workers in plain Python.")
    ] = 1,
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a headless ComfyUI server, a worker for workflows; repeat for several."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, or auto; default: a new one on this machine."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="GPUs per worker of --workers; 0.5 lets two share one.")
    ] = 0.0,
    retries: Annotated[int, typer.Option(min=0, help="Retries of a job when its worker dies.")] = 2,
) -> None:
    """Run many jobs on many workers: learn concepts, draw pictures, run workflows.

    Draws every prompt with every seed and setting. Jobs are cached by content hash; if a worker
    dies, another one takes over its job.

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
    say(f"{len(outcome.done)} done now, {len(outcome.reused)} before; {results}", "bold green")
    for job, why in outcome.failed:
        complain(f"{job.title}: {why}")
    for job in outcome.left:
        complain(f"{job.title}: skipped, because a job that it needs failed")
    if outcome.failed:
        raise typer.Exit(1)
