"""`conceptloom evolve`: a child of concepts and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import say
from .lab_options import (
    Decoder,
    Every,
    Guidance,
    Name,
    Out,
    Prior,
    PriorSteps,
    Rate,
    Seed,
    Steps,
    opened,
    rate_of,
)
from .options import Device, Layout, Model, Precision, PrecisionName

if TYPE_CHECKING:
    from torch import Tensor


def evolve(
    name: Name,
    first_word: Annotated[
        str, typer.Option("--of", help="Word to start from: the category of the parents.")
    ],
    parent: Annotated[
        list[str] | None,
        typer.Option("--parent", metavar="FILE[:WEIGHT]", help="A concept; repeat."),
    ] = None,
    photos: Annotated[
        list[str] | None,
        typer.Option("--photos", metavar="FOLDER[:WEIGHT]", help="Pictures of a parent; repeat."),
    ] = None,
    out: Out = None,
    prior: Prior = "tinyworld",
    decoder: Decoder = None,
    steps: Steps = 200,
    rate: Rate = None,
    every: Every = 50,
    prior_steps: PriorSteps = 5,
    guidance: Guidance = 4.0,
    seed: Seed = 0,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
) -> None:
    """Breed a child of several parents: concepts, photographs, or both (ConceptLab).

    The child can be a parent again; its file keeps the family tree.

        conceptloom evolve my-child --of object --parent runs/a/concept.safetensors:2 --photos cats
    """
    from ..errors import InputError
    from ..methods.conceptlab import (
        EvolutionConfig,
        drawn_parents,
        lineage_told,
        photographed_parents,
    )
    from ..methods.conceptlab import evolve as learn
    from ..vision.ports import PriorSampling
    from .drawing import parsed_concept
    from .laboratory import LOOP, run
    from .results import CONCEPT, STATE

    concepts = [parsed_concept(option) for option in parent or ()]
    folders = [parsed_concept(option) for option in photos or ()]
    if not concepts and not folders:
        raise InputError("There are no parents: give a --parent FILE or --photos FOLDER.")
    sampling = PriorSampling(steps=prior_steps, guidance=guidance)
    laboratory = opened(prior, decoder, "none", sampling, model, layout, device, precision)
    drawn = [drawn_parents(laboratory.painter, [asked.load()]) for asked in concepts]
    taken = photographed_parents({asked.file.name: photographs(asked.file) for asked in folders})
    # A file with several names is several parents of one weight.
    weights = [asked.strength for found, asked in zip(drawn, concepts, strict=True) for _ in found]
    weights += [asked.strength for asked in folders]
    config = laboratory.fitted(
        EvolutionConfig(
            first_word=first_word,
            weights=tuple(weights),
            steps=steps,
            learning_rate=rate_of(rate, prior),
            sampling=sampling,
            gallery_every=every,
            seed=seed,
        )
    )
    out = out or Path("runs") / name
    made = run(
        lambda progress, path_of: learn(
            laboratory.space,
            name,
            [*(one for found in drawn for one in found), *taken],
            config,
            painter=laboratory.painter,
            loop=LOOP,
            folder=out / STATE,
            path_of=path_of,
            progress=progress,
        ),
        out,
    )
    for line in lineage_told(name, made.concept.recipe):
        say(line)
    say(f"bred <{name}>, wrote {out / CONCEPT}", "bold green")


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
        raise ImageError(f"{folder} holds no pictures; put three to five of one parent there.")
    return read_images(files)
