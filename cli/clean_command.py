"""`conceptloom clean`: deletes saved states, which take three times the size of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import say

MIB = 2**20


def clean(
    folder: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Result folders of runs, or folders of them; default: runs. ComfyUI stores its "
            "own in output/conceptloom/runs."
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Delete the newest state of each run too; the run then starts over."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be deleted.")
    ] = False,
) -> None:
    """Delete saved states of runs, except the newest of each. Concepts and pictures remain.

    Do not use it on a run that is still training.

        conceptloom clean --dry-run

        conceptloom clean --all runs/my-mug
    """
    from ..errors import InputError
    from ..training.cleaning import clean as remove_states
    from ..training.cleaning import saved_runs, size_of

    total = 0
    for root in folder or [Path("runs")]:
        if not root.is_dir():
            raise InputError(f"There is no folder {root}; name one with results of runs.")
        for run in saved_runs(root):
            files, left = run.files(every=every), [] if every else list(run.states[:1])
            size = size_of(files)
            total += size
            stays = f", {size_of(left) / MIB:,.1f} MiB remain" if left else ""
            if not dry_run:
                remove_states(run, every=every)
            verb = "would remove" if dry_run else "removed"
            say(f"{run.folder}: {verb} {len(files)} files, {size / MIB:,.1f} MiB{stays}")
    say(f"{total / MIB:,.1f} MiB {'would be' if dry_run else 'are'} freed", "bold green")
