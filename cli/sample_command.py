"""`conceptloom sample`: pictures of prompts with learned concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from .console import console, say
from .options import BaseModel, PictureOut, with_groups

if TYPE_CHECKING:
    from ..attention.lag_config import LagConfig
    from ..attention.local_lora import LocalLora
    from ..concepts.concept import AppliedConcepts, Concept
    from ..host.ports import Host, UNetEdit


@with_groups
def sample(
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Repeat for several; default: the training prompts."),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(
            "--concept", "-c", metavar="FILE[:STRENGTH[:NEWNAME]]", help="Repeat for several."
        ),
    ] = None,
    out: PictureOut = None,
    negative: Annotated[str, typer.Option(help="What to avoid.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures per prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps: 20 is fast, 50 fine.")] = 50,
    cfg: Annotated[
        float | None,
        typer.Option(help="Guidance scale: 1 is loose, 7.5 usual; default 7.5, on tinyworld 3."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Default: the model's native size.")
    ] = None,
    lag: Annotated[
        bool,
        typer.Option(
            "--lag",
            help="Apply concepts only where each appears: residuals (train-residuals) by LAG, "
            "others (import-lora) as localised LoRAs.",
        ),
    ] = False,
    local_lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar='FILE[:STRENGTH]="[TRIGGER|]WORDS"[,MASK]',
            help="A LoRA file only where these words of the prompt are. Repeat for several; a "
            "trigger before the words tells two with the same words apart.",
        ),
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="With localised LoRAs: write where each worked.")
    ] = False,
    *,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Draw pictures with learned concepts; saves each picture as soon as it is finished."""
    from ..attention.lag_config import LagConfig
    from ..concepts.concept import stacked
    from ..tinyworld.presets import CFG
    from .drawing import Drawing, draw, load_concepts, natural_size, parsed_size
    from .local_loras import local_run
    from .picture_files import Gallery, free_name
    from .setting_options import changed_by_options

    host = base.open()
    loaded = load_concepts(host, concept or [])
    stack, edits, located = stacked(loaded), [], []
    config = changed_by_options(LagConfig(), settings)
    prompts = prompt or [text for one, _ in loaded for text in one.prompts]
    if lag:
        stack, edits, located = _localised(host, loaded, prompts, config)
    local = local_run(host, local_lora or [], prompts, stack.handles, steps, located)
    drawing = Drawing(
        negative=negative,
        seed=seed,
        steps=steps,
        cfg=cfg if cfg is not None else (CFG if base.is_tinyworld else 7.5),
        size_px=parsed_size(size) if size else natural_size(host),
    )
    gallery = Gallery(out or free_name(Path("picture.png")), count * len(prompts), drawing)
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("drawing", total=None)
        draw(
            host,
            prompts,
            stack,
            drawing,
            count=count,
            edits=[*edits, *local.edits],
            encode=local.encode,
            keep=lambda picture, prompt: gallery.keep(local.kept(picture), prompt),
            progress=lambda done, total, *_: bars.update(task, completed=done, total=total),
        )
    files = gallery.finished()
    for path in [*files, *(local.write_masks(files) if masks else [])]:
        say(f"wrote {path}")


def _localised(
    host: Host, loaded: Sequence[tuple[Concept, float]], prompts: Sequence[str], config: LagConfig
) -> tuple[AppliedConcepts, Sequence[UNetEdit], Sequence[LocalLora]]:
    """Concepts and strengths in their places: handles, the edit with the residuals, and LoRAs.

    Raises:
        ConceptLoomError: a concept cannot be localised, or a prompt lacks it.
    """
    from ..concepts.concept import AppliedConcepts, stacked
    from ..errors import InputError
    from ..methods.personalized_residuals import Localised, by_engine, lag_setup, local_lora_of

    if not loaded:
        raise InputError("--lag localises concepts; load one with --concept.")
    requested = [
        Localised(concept=concept, config=replace(config, strength=strength))
        for concept, strength in loaded
    ]
    residuals, others = by_engine(requested)
    applied = AppliedConcepts(dict(stacked([(c, 0.0) for c, _ in loaded]).handles), {})
    edits: list[UNetEdit] = []
    if residuals:
        setup = lag_setup(host, residuals)
        encoded = [host.encode_prompt(text, applied.handles) for text in prompts]
        tokens = {prompt.text: prompt.tokens for prompt in encoded}
        edits.append(setup.edit(host.noise_path.last_t, tokens))
    return applied, edits, [local_lora_of(host, one) for one in others]


def sample_with_options() -> Callable[..., Any]:
    """`sample` with an option for each setting of LAG; the strength is part of --concept."""
    from ..attention.lag_config import LagConfig
    from .setting_options import with_options

    return with_options(sample, {"With --lag": LagConfig()}, without=("strength", "localised"))
