"""`conceptloom import-lora`: a LoRA file as a concept file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import say
from .options import BaseModel, with_groups, writable_file


@with_groups
def import_lora(
    file: Annotated[Path, typer.Argument(help="LoRA in a .safetensors file, of any common kind.")],
    words: Annotated[
        str,
        typer.Option(
            help="Words that the base model knows and that describe the subject, such as: girl "
            "with blue hair."
        ),
    ],
    trigger: Annotated[
        str, typer.Option(help="Trigger word; default: the one that the file names.")
    ] = "",
    name: Annotated[
        str, typer.Option(help="Name of the concept in prompts; default: the trigger.")
    ] = "",
    thumbnail: Annotated[
        Path | None, typer.Option(help="Picture for the concept file; default: the LoRA's own.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=writable_file, help="Default: NAME.safetensors."),
    ] = None,
    *,
    base: BaseModel,
) -> None:
    """Make a concept of a LoRA file, for `sample --lag` and `weave`."""
    from ..attention.local_setup import lora_for
    from ..concepts.concept_file import save_concept
    from ..concepts.lora_concept import concept_of_lora
    from ..concepts.lora_file import read_lora
    from ..concepts.lora_metadata import picture_of, words_of
    from .picture_files import free_name
    from .picture_reader import read_image

    tensors, metadata = read_lora(file)
    host = base.open()
    lora = lora_for(host, tensors, file.name)
    concept = concept_of_lora(
        host,
        lora,
        words_of(metadata),
        words=words,
        file_name=file.name,
        name=name,
        trigger=trigger,
        thumbnail=picture_of(file, metadata) if thumbnail is None else read_image(thumbnail),
    )
    path = save_concept(concept, out or free_name(Path(f"{concept.names[0]}.safetensors")))
    say(f"{file.name}: {lora.summary()}")
    say(f"wrote {path}; use it as: {concept.prompts[0]}", "green")
