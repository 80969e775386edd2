"""`conceptloom invent` and `conceptloom mix`: a new member of a category, or one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    Vqa,
    opened,
    rate_of,
    weighted,
)
from .options import Device, Layout, Model, Precision, PrecisionName


def invent(
    name: Name,
    category: Annotated[
        list[str],
        typer.Option("--of", help="What it is a new kind of; repeat for several, WORD:WEIGHT."),
    ],
    negative: Annotated[
        list[str] | None, typer.Option("--not", help="What it must not become; repeat.")
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="Never add this word, whatever the answer; repeat.")
    ] = None,
    out: Out = None,
    prior: Prior = "tinyworld",
    decoder: Decoder = None,
    vqa: Vqa = None,
    steps: Steps = 300,
    rate: Rate = None,
    every: Every = 50,
    first_word: Annotated[
        str, typer.Option("--from", help="What the name starts as; by default the category.")
    ] = "",
    question: Annotated[str, typer.Option(help="Instead of the paper's.")] = "",
    early_stop: Annotated[int, typer.Option(min=0, help="Looks without news; 0 never.")] = 0,
    weight: Annotated[float, typer.Option(min=0.0, help="Lambda: of the category.")] = 1.0,
    prior_steps: PriorSteps = 5,
    guidance: Guidance = 4.0,
    seed: Seed = 0,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
) -> None:
    """Invent a member of a category that none of its known members is (ConceptLab).

    Ctrl-C keeps the work; the same command goes on from there.

        conceptloom invent my-thing --of "red object" --from square --every 20

        conceptloom invent my-pet --of pet --prior priors/kandinsky-2-1-prior \\
            --decoder priors/kandinsky-2-1 --vqa vqa/blip2-flan-t5-xl --steps 2500 --every 250
    """
    from ..methods.conceptlab import ConceptLabConfig, NegativesConfig
    from ..methods.conceptlab import invent as learn
    from ..vision.ports import PriorSampling
    from .laboratory import LOOP, run
    from .results import CONCEPT, STATE

    words, weights = weighted(category)
    sampling = PriorSampling(steps=prior_steps, guidance=guidance)
    laboratory = opened(prior, decoder, vqa, sampling, model, layout, device, precision)
    config = laboratory.fitted(
        ConceptLabConfig(
            positives=words,
            weights=weights,
            negatives=NegativesConfig(
                start=tuple(negative or ()),
                forbidden=tuple(forbid or ()),
                every=every,
                question=question,
                early_stop=early_stop,
            ),
            steps=steps,
            learning_rate=rate_of(rate, prior),
            initialiser_word=first_word,
            positive_weight=weight,
            sampling=sampling,
            seed=seed,
        )
    )
    out = out or Path("runs") / name
    made = run(
        lambda progress, path_of: learn(
            laboratory.space,
            name,
            config,
            painter=laboratory.painter,
            questions=laboratory.questions,
            loop=LOOP,
            folder=out / STATE,
            path_of=path_of,
            progress=progress,
        ),
        out,
    )
    for look in made.looks:
        say(look.told())
    away = f", away from: {', '.join(made.negatives)}" if made.negatives else ""
    say(f"learned <{name}>{away}", "bold green")
    say(f"wrote {out / CONCEPT}, with every checkpoint and pictures beside it")


def mix(
    name: Name,
    words: Annotated[
        list[str], typer.Argument(help="What it is at once: lobster:2 turtle pulls twice as hard.")
    ],
    out: Out = None,
    prior: Prior = "tinyworld",
    decoder: Decoder = None,
    steps: Steps = 300,
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
    """Learn one thing that is several, each as much as its weight says (ConceptLab).

    conceptloom mix my-mix star:2 ring
    """
    invent(
        name,
        words,
        out=out,
        prior=prior,
        decoder=decoder,
        vqa="none",
        steps=steps,
        rate=rate,
        every=every,
        prior_steps=prior_steps,
        guidance=guidance,
        seed=seed,
        model=model,
        layout=layout,
        device=device,
        precision=precision,
    )
