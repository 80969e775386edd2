"""`conceptloom download`: downloads large models from Hugging Face on request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cancelling import Cancelled, Stopped
from .console import say


def download(
    model: Annotated[
        str,
        typer.Argument(
            help="Model to download, several gigabytes each; an unknown name lists all known ones."
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(help="The models folder of ComfyUI, or another folder."),
    ] = Path("models"),
) -> None:
    """Fetch a prior, a decoder or a BLIP-2 for `invent`, `mix` and `evolve`, or what the node
    Segment by Text needs.

    Ctrl-C stops within about a second; the same command resumes.

        conceptloom download kandinsky-2-1-prior --to ~/ComfyUI/models
    """
    from ..vision.downloads import download as fetch
    from .progress import RunProgress

    try:
        with RunProgress() as progress:
            folder = fetch(model, to.expanduser(), progress)
    except Cancelled as cancelled:
        raise Stopped(
            f"Stopped after {cancelled.step} of {cancelled.total} MB; the same command resumes."
        ) from cancelled
    say(f"wrote {folder}", "bold green")
