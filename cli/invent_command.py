"""`conceptloom invent` and `conceptloom mix`: a new member of a category, or one of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import say
from .lab_options import Name, Networks, Out, Vqa, chosen_settings, lab_command, opened
from .options import BaseModel, with_groups


@with_groups
def invent(
    name: Name,
    category: Annotated[
        list[str],
        typer.Option("--of", help="Category of the new member; repeat for several, WORD:WEIGHT."),
    ],
    out: Out = None,
    vqa: Vqa = None,
    *,
    networks: Networks,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Invent a new member of a category (ConceptLab).

    Ctrl-C saves the progress; the same command resumes.

        conceptloom invent my-animal --of animal --from cat --every 20

        conceptloom invent my-pet --of pet --prior priors/kandinsky-2-1-prior \\
            --decoder priors/kandinsky-2-1 --vqa vqa/blip2-flan-t5-xl
    """
    _learn(name, category, out, settings, networks, base, vqa)


@with_groups
def mix(
    name: Name,
    words: Annotated[
        list[str],
        typer.Argument(help="Words to mix; in lobster:2 turtle, lobster pulls twice as hard."),
    ],
    out: Out = None,
    *,
    networks: Networks,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Learn a mix of several words, in proportion to their weights (ConceptLab).

    conceptloom mix my-mix mug:2 teapot
    """
    _learn(name, words, out, settings, networks, base, "none")


def _learn(
    name: str, words: Sequence[str], out: Path | None, settings: Mapping[str, Any],
    networks: Networks, base: BaseModel, vqa: str | None,
) -> None:  # fmt: skip
    from ..methods.conceptlab import invent as learn
    from ..methods.conceptlab import weighted_words
    from ..methods.conceptlab.spec import SPEC
    from .laboratory import write_results
    from .results import CONCEPT, STATE, ResultFolder

    positives, weights = weighted_words(words)
    chosen = chosen_settings(SPEC, networks.prior, settings, positives=positives, weights=weights)
    laboratory = opened(networks, base, vqa, chosen.config.sampling)
    out = out or Path("runs") / name
    results = ResultFolder(out)
    made = results.run(
        lambda progress, save: learn(
            laboratory.space,
            name,
            laboratory.defaults.fitted(chosen.config),
            image_generator=laboratory.image_generator,
            questions=laboratory.questions,
            loop=chosen.loop,
            folder=out / STATE,
            save=save,
            progress=progress,
        )
    )
    write_results(made, results)
    for one in made.rounds:
        say(one.summary())
    if idle := made.describe_ceiling():
        say(idle, "yellow")
    away = f", avoiding: {', '.join(made.negatives)}" if made.negatives else ""
    say(f"learned <{name}>{away}", "bold green")
    say(f"saved {out / CONCEPT}, with all checkpoints and pictures in the same folder")


def invent_with_options() -> Callable[..., Any]:
    """`invent` with an option for each setting."""
    from ..methods.conceptlab.spec import SPEC

    return lab_command(invent, SPEC)


def mix_with_options() -> Callable[..., Any]:
    """`mix` with an option for each setting, without those of the VQA model and of negatives."""
    from ..methods.conceptlab.config import NegativesConfig
    from ..methods.conceptlab.spec import SPEC
    from ..training.setting import settings_in

    asking = {one.name for one in settings_in(NegativesConfig())} - {"look_every"}
    return lab_command(mix, SPEC, "object_or_style", "negative_floor", "positive_weight", *asking)
