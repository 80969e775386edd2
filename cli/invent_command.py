"""`conceptloom invent`: a new member of a category, or a mix of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import say
from .options import Device, Layout, Model, Precision, PrecisionName


def invent(
    name: Annotated[str, typer.Argument(help="Of the new handle: my-pet becomes <my-pet>.")],
    category: Annotated[
        list[str],
        typer.Option("--of", help="What it is a new kind of; repeat to mix several, WORD:WEIGHT."),
    ],
    negative: Annotated[
        list[str] | None, typer.Option("--not", help="What it must not become; repeat.")
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="Never add this word, whatever the answer; repeat.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="By default runs/NAME.")] = None,
    prior: Annotated[
        str, typer.Option(help="tinyworld, none (the model's text space), or a folder.")
    ] = "tinyworld",
    decoder: Annotated[Path | None, typer.Option(help="Folder of Kandinsky's decoder.")] = None,
    vqa: Annotated[
        str, typer.Option(help="Who says what a picture shows: tinyworld, none, or a folder.")
    ] = "tinyworld",
    steps: Annotated[int, typer.Option(min=1, help="Official: 2500.")] = 300,
    rate: Annotated[
        float | None, typer.Option(help="Learning rate; 1e-4, on TinyWorld's prior 1e-2.")
    ] = None,
    every: Annotated[int, typer.Option(min=0, help="Steps between looks; 0 never.")] = 50,
    question: Annotated[str, typer.Option(help="Instead of the paper's.")] = "",
    early_stop: Annotated[int, typer.Option(min=0, help="Looks without news; 0 never.")] = 0,
    prior_steps: Annotated[int, typer.Option(min=2, help="Of the prior, in learning.")] = 5,
    guidance: Annotated[float, typer.Option(min=1.0, help="Of the prior; 1 is none.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same file.")] = 0,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
) -> None:
    """Invent a member of a category that none of its known members is (ConceptLab).

    Ctrl-C keeps the work; the same command goes on from there.

        conceptloom invent my-thing --of object

        conceptloom invent my-pet --of pet --prior priors/kandinsky-2-1-prior \\
            --decoder priors/kandinsky-2-1 --vqa vqa/blip2-flan-t5-xl --steps 2500 --every 250
    """
    from ..methods.conceptlab import ConceptLabConfig
    from ..vision.ports import PriorSampling
    from .laboratory import CONCEPT, NONE, from_folders, negatives_config, on_host, run
    from .models import TINYWORLD, open_host
    from .models import Precision as Computed

    words, weights = _weighted(category)
    config = ConceptLabConfig(
        positives=words,
        weights=weights,
        negatives=negatives_config(negative or [], forbid or [], every, question, early_stop),
        steps=steps,
        learning_rate=rate or (1e-2 if prior == TINYWORLD else 1e-4),
        sampling=PriorSampling(steps=prior_steps, guidance=guidance),
        seed=seed,
    )
    if prior in (TINYWORLD, NONE):
        host = open_host(model, layout=layout, device=device, precision=Computed(precision.value))
        laboratory = on_host(host, prior, vqa, config)
    else:
        is_half = precision is PrecisionName.FP16
        laboratory = from_folders(Path(prior), decoder, vqa, config, half=is_half)
    out = out or Path("runs") / name
    made = run(laboratory, name, out)
    for look in made.looks:
        say(look.told())
    say(f"invented <{name}>, away from: {', '.join(made.negatives) or 'nothing'}", "bold green")
    say(f"wrote {out / CONCEPT}, with every checkpoint and pictures beside it")


def _weighted(words: list[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """`lobster:2` as word and weight; without a number it is 1."""
    from ..errors import ConfigError

    found: dict[str, float] = {}
    for entry in words:
        word, _, weight = entry.partition(":")
        try:
            found[word.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise ConfigError("of", entry, "a word, or WORD:NUMBER such as lobster:2") from None
    return tuple(found), tuple(found.values())
