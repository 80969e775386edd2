"""`conceptloom evolve`: a child of concepts and photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import say
from .lab_options import Name, Networks, Out, chosen_settings, lab_command, opened
from .options import BaseModel, with_groups

if TYPE_CHECKING:
    from torch import Tensor


@with_groups
def evolve(
    name: Name,
    first_word: Annotated[
        str, typer.Option("--of", help="Word to start from: the category of the parents.")
    ],
    parent: Annotated[
        list[str] | None,
        typer.Option(
            "--parent", metavar="FILE[:WEIGHT]", help="A parent concept; repeat for several."
        ),
    ] = None,
    photos: Annotated[
        list[str] | None,
        typer.Option(
            "--photos",
            metavar="FOLDER[:WEIGHT]",
            help="Folder with pictures of a parent; repeat for several.",
        ),
    ] = None,
    out: Out = None,
    *,
    networks: Networks,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Evolve a new concept from parents: concepts, photographs, or both (ConceptLab).

    The result can be a parent again; its file keeps the family tree.

        conceptloom evolve my-child --of object --parent runs/a/concept.safetensors:2 --photos cats
    """
    from ..errors import InputError
    from ..methods.conceptlab import (
        describe_lineage,
        parents_from_concepts,
        parents_from_photographs,
    )
    from ..methods.conceptlab import evolve as learn
    from ..methods.conceptlab.spec import EVOLUTION
    from .drawing import parsed_concept
    from .laboratory import write_results
    from .results import CONCEPT, STATE, ResultFolder

    concepts = [parsed_concept(option) for option in parent or ()]
    folders = [parsed_concept(option) for option in photos or ()]
    if not concepts and not folders:
        raise InputError("There are no parents; pass --parent FILE or --photos FOLDER.")
    chosen = chosen_settings(EVOLUTION, networks.prior, settings, first_word=first_word)
    sampling = chosen.config.sampling
    laboratory = opened(networks, base, "none", sampling)
    drawn = [
        parents_from_concepts(laboratory.image_generator, [parent_option.load()])
        for parent_option in concepts
    ]
    taken = parents_from_photographs(
        {parent_option.file.name: photographs(parent_option.file) for parent_option in folders}
    )
    # A file with several names is several parents of one weight.
    weights = [
        parent_option.strength
        for parents, parent_option in zip(drawn, concepts, strict=True)
        for _ in parents
    ]
    weights += [parent_option.strength for parent_option in folders]
    config = replace(laboratory.defaults.fitted(chosen.config), weights=tuple(weights))
    out = out or Path("runs") / name
    results = ResultFolder(out)
    made = results.run(
        lambda progress, save: learn(
            laboratory.space,
            name,
            [*(one for parents in drawn for one in parents), *taken],
            config,
            image_generator=laboratory.image_generator,
            loop=chosen.loop,
            folder=out / STATE,
            save=save,
            progress=progress,
        )
    )
    write_results(made, results)
    for line in describe_lineage(name, made.concept.recipe):
        say(line)
    say(f"evolved <{name}>, saved {out / CONCEPT}", "bold green")


def evolve_with_options() -> Callable[..., Any]:
    """`evolve` with an option for each setting; --of is its own."""
    from ..methods.conceptlab.spec import EVOLUTION

    return lab_command(evolve, EVOLUTION, "first_word")


def photographs(folder: Path) -> Tensor:
    """[n, H, W, 3] the pictures of a folder, by name.

    Raises:
        ImageError: there are none, or they differ in size.
    """
    from ..errors import ImageError
    from .picture_reader import picture_endings, read_images

    endings = picture_endings()
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in endings)
    if not files:
        raise ImageError(f"{folder} contains no pictures; put three to five of one parent there.")
    return read_images(files)
