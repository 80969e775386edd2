"""`conceptloom inspect`: the contents of a concept file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import console, say


def inspect(
    file: Annotated[list[Path], typer.Argument(help="Concept files.")],
    thumbnail: Annotated[
        Path | None, typer.Option(help="Save the file's thumbnail as this PNG.")
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Read every tensor and verify the checksum.")
    ] = False,
) -> None:
    """Show the contents of a concept file: handles, recipe, sizes, prompts, thumbnail."""
    from ..concepts.concept_file import load_concept, read_concept_info
    from ..errors import InputError
    from .inspection import file_summary
    from .picture_files import write_picture

    if thumbnail is not None and len(file) > 1:
        raise InputError(
            f"--thumbnail takes one file, but {len(file)} came; inspect them one by one."
        )
    for path in file:
        info = read_concept_info(path)
        console.print(file_summary(path, info, in_colour=console.color_system is not None))
        if verify:
            load_concept(path)
            say(f"{path} is intact: all tensors are readable and the checksum matches.", "green")
        if thumbnail is not None:
            if info.concept.thumbnail is None:
                raise InputError(f"{path} contains no thumbnail.")
            say(f"wrote {write_picture(info.concept.thumbnail, thumbnail)}")
