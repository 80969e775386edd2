"""ConceptLab from the command line: the networks, a run, and its results in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..host.ports import Host, Progress
from ..methods.conceptlab import SIMILARITY, ConceptLabConfig, EvolutionConfig, Invented
from ..tinyworld.prior import GALLERY, SENTENCES, load_tiny_prior
from ..tinyworld.questions import OracleQuestions
from ..training.concept_file import save_concept
from ..training.paths import ensure_writable
from ..training.recipe import LoopConfig
from ..training.reports import write_csv
from ..vision.clip_space import ClipSpace
from ..vision.painters import HostPainter
from ..vision.ports import ConceptSpace, Painter, PriorSampling, Questions
from ..vision.prior_files import load_decoder, load_prior, painter_of, prior_on_host
from ..vision.vqa import load_blip2
from ..viz.overlays import sample_strip
from ..viz.plots import loss_plot
from .cancelling import Cancelled, Stopped
from .drawing import natural_size
from .models import TINYWORLD
from .picture_files import write_picture
from .progress import RunProgress

NONE = "none"
CONCEPT, STATE = "concept.safetensors", "state"
LOOP = LoopConfig(clip=0.0, save_every=100)
# Learning rates; TinyWorld's vectors and steps are other ones than CLIP's.
RATE, TINYWORLD_RATE = 1e-4, 1e-2

Config = TypeVar("Config", ConceptLabConfig, EvolutionConfig)


@dataclass(frozen=True, slots=True)
class Laboratory:
    """Where concepts are compared, who draws them, who answers; and what that space wants.

    Attributes:
        clamps: ceiling of positives and floor of negatives; None leaves the official ones.
        sentences, gallery: for a model that knows few words; () leaves the method's.
    """

    space: ConceptSpace
    painter: Painter | None
    questions: Questions | None
    clamps: tuple[float, float] | None = None
    sentences: tuple[str, ...] = ()
    gallery: tuple[str, ...] = ()

    def fitted(self, config: Config) -> Config:
        """The recipe as this laboratory needs it; a clamp that somebody set stays."""
        changes: dict[str, Any] = {}
        if self.sentences:
            changes |= {"templates": self.sentences, "gallery": self.gallery}
        if self.clamps is not None and isinstance(config, ConceptLabConfig):
            names, official = ("positive_ceiling", "negative_floor"), ConceptLabConfig()
            for name, value in zip(names, self.clamps, strict=True):
                if getattr(config, name) == getattr(official, name):
                    changes[name] = value
        return replace(config, **changes)


def on_host(host: Host, prior: str, vqa: str) -> Laboratory:
    """TinyWorld's prior ("tinyworld"), or the text space of a base model ("none")."""
    is_tiny = prior == TINYWORLD
    painter = HostPainter(
        host, steps=20 if is_tiny else 50, cfg=3.0 if is_tiny else 7.5, size=natural_size(host)
    )
    questions = questions_of(vqa, host.device, host.dtype)
    if not is_tiny:
        return Laboratory(ClipSpace(host), painter, questions, (1.0, -1.0))
    tiny = load_tiny_prior()
    space = prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection,
        scheduler=tiny.scheduler,
    )
    return Laboratory(space, painter, questions, tiny.clamps, SENTENCES, GALLERY)


def from_folders(
    prior: Path,
    decoder: Path | None,
    vqa: str,
    sampling: PriorSampling,
    device: torch.device,
    *,
    half: bool,
) -> Laboratory:
    """Kandinsky's or Karlo's prior, with its decoder where one is given; a CPU takes no half."""
    dtype = torch.float16 if half and device.type != "cpu" else torch.float32
    drawing = load_decoder(decoder, dtype) if decoder else None
    space = load_prior(prior, device, dtype, decoder=drawing)
    painter = None
    if drawing is not None:
        painter = painter_of(
            space, drawing, device, sampling=sampling, steps=50, cfg=7.5, size=(512, 512)
        )
    return Laboratory(space, painter, questions_of(vqa, device, dtype))


def questions_of(vqa: str, device: torch.device, dtype: torch.dtype) -> Questions | None:
    """Who answers: "tinyworld" is the oracle, "none" nobody, else a folder of BLIP-2."""
    if vqa == NONE:
        return None
    return OracleQuestions() if vqa == TINYWORLD else load_blip2(Path(vqa), device, dtype)


def run(work: Callable[[Progress], Invented], out: Path) -> Invented:
    """Invent, mix or breed, and leave the results in a folder.

    Raises:
        Stopped: the user pressed Ctrl-C; the same command goes on.
        ConceptLoomError: see `errors`.
    """
    ensure_writable(out / CONCEPT)
    try:
        with RunProgress(out / "preview.png") as progress:
            made = work(progress)
    except Cancelled as cancelled:
        raise Stopped(
            f"Stopped after step {cancelled.step}. Everything is kept in {out / STATE}; the same "
            "command goes on from there."
        ) from cancelled
    write_results(made, out)
    return made


def write_results(made: Invented, out: Path) -> None:
    """Concept, every checkpoint, pictures, losses and similarities."""
    save_concept(made.concept, out / CONCEPT)
    for step in made.album.steps[:-1]:
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
