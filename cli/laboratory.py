"""ConceptLab from the command line: the networks, a run, and its results in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..host.ports import Host
from ..methods.conceptlab import (
    SIMILARITY,
    ConceptLabConfig,
    Invented,
    NegativesConfig,
    invent,
    text_space_config,
)
from ..tinyworld.prior import GALLERY, SENTENCES, load_tiny_prior
from ..tinyworld.questions import OracleQuestions
from ..training.concept_file import save_concept
from ..training.pictures import sample_strip
from ..training.plots import loss_plot
from ..training.recipe import LoopConfig
from ..training.reports import write_csv
from ..vision.clip_space import ClipSpace
from ..vision.painters import HostPainter
from ..vision.ports import ConceptSpace, Painter, Questions
from ..vision.prior_files import load_decoder, load_prior, painter_of, prior_on_host
from ..vision.vqa import load_blip2
from .cancelling import Cancelled, Stopped
from .drawing import natural_size
from .models import TINYWORLD
from .picture_files import write_picture
from .progress import RunProgress

NONE = "none"
CONCEPT, STATE = "concept.safetensors", "state"


@dataclass(frozen=True, slots=True)
class Laboratory:
    """Where concepts are compared, who draws them, who answers; and the recipe fit for that."""

    space: ConceptSpace
    painter: Painter | None
    questions: Questions | None
    config: ConceptLabConfig


def on_host(host: Host, prior: str, vqa: str, config: ConceptLabConfig) -> Laboratory:
    """TinyWorld's prior ("tinyworld"), or the text space of a base model ("none")."""
    is_tiny = prior == TINYWORLD
    painter = HostPainter(
        host, steps=20 if is_tiny else 50, cfg=3.0 if is_tiny else 7.5, size=natural_size(host)
    )
    questions = questions_of(vqa, host.device, host.dtype)
    if not is_tiny:
        return Laboratory(ClipSpace(host), painter, questions, text_space_config(config))
    tiny = load_tiny_prior()
    space = prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection,
        scheduler=tiny.scheduler,
    )
    return Laboratory(space, painter, questions, for_tinyworld(config, *tiny.clamps))


def from_folders(
    prior: Path, decoder: Path | None, vqa: str, config: ConceptLabConfig, half: bool
) -> Laboratory:
    """Kandinsky's or Karlo's prior, with its decoder where one is given."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if half and device.type != "cpu" else torch.float32
    drawing = load_decoder(decoder, dtype) if decoder else None
    space = load_prior(prior, device, dtype, decoder=drawing)
    painter = None
    if drawing is not None:
        painter = painter_of(
            space, drawing, device, sampling=config.sampling, steps=50, cfg=7.5, size=(512, 512)
        )
    return Laboratory(space, painter, questions_of(vqa, device, dtype), config)


def questions_of(vqa: str, device: torch.device, dtype: torch.dtype) -> Questions | None:
    """Who answers: "tinyworld" is the oracle, "none" nobody, else a folder of BLIP-2."""
    if vqa == NONE:
        return None
    return OracleQuestions() if vqa == TINYWORLD else load_blip2(Path(vqa), device, dtype)


def for_tinyworld(config: ConceptLabConfig, ceiling: float, floor: float) -> ConceptLabConfig:
    """The recipe in the few words that TinyWorld knows, with its own clamps."""
    return replace(
        config,
        positive_ceiling=ceiling,
        negative_floor=floor,
        templates=config.templates or SENTENCES,
        gallery=config.gallery or GALLERY,
    )


def run(laboratory: Laboratory, name: str, out: Path, *, save_every: int = 100) -> Invented:
    """Invent, and leave the results in a folder; the same call goes on where it stopped.

    Raises:
        Stopped: the user pressed Ctrl-C.
        ConceptLoomError: see `errors`.
    """
    try:
        with RunProgress(out / "preview.png") as progress:
            made = invent(
                laboratory.space,
                name,
                laboratory.config,
                painter=laboratory.painter,
                questions=laboratory.questions,
                loop=LoopConfig(clip=0.0, save_every=save_every),
                folder=out / STATE,
                progress=progress,
            )
    except Cancelled as cancelled:
        raise Stopped(
            f"Stopped after step {cancelled.step}. Everything is kept in {out / STATE}; the same "
            "command goes on from there."
        ) from cancelled
    write_results(made, made.album.steps, out)
    return made


def write_results(made: Invented, steps: Sequence[int], out: Path) -> None:
    """Concept, every checkpoint, pictures, losses and similarities."""
    save_concept(made.concept, out / CONCEPT)
    for step in steps[:-1]:
        save_concept(made.at(step), out / "checkpoints" / f"{step:06d}.safetensors")
    write_csv(made.history, out / "losses.csv")
    always = ("step", "phase")
    similar = [
        {k.removeprefix(SIMILARITY): v for k, v in row.items() if k in always or SIMILARITY in k}
        for row in made.history
    ]
    write_picture(loss_plot(similar), out / "similarity.png")
    timeline, samples = made.timeline(), made.samples
    if timeline is not None:
        write_picture(timeline, out / "timeline.png")
    if samples is not None:
        strip = sample_strip(list(samples), list(made.concept.prompts))
        write_picture(strip, out / "samples.png")


def negatives_config(
    start: Sequence[str], forbidden: Sequence[str], every: int, question: str, early_stop: int
) -> NegativesConfig:
    """How the list of negatives begins and grows."""
    return NegativesConfig(
        start=tuple(start),
        forbidden=tuple(forbidden),
        every=every,
        question=question,
        early_stop=early_stop,
    )
