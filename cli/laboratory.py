"""ConceptLab from the command line: the networks, a run, and its results in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..concepts.concept_file import save_concept
from ..host.ports import Host
from ..methods.conceptlab import Invented, SpaceDefaults
from ..tinyworld.presets import CFG
from ..tinyworld.prior import GALLERY, SENTENCES, load_tiny_prior
from ..tinyworld.questions import JudgeVQA
from ..training.results import ResultFile
from ..vision.clip_space import ClipSpace
from ..vision.generators import HostImageGenerator
from ..vision.ports import ConceptSpace, ImageGenerator, PriorSampling, VQAModel
from ..vision.prior_files import decoder_generator, load_decoder, load_prior, prior_on_host
from ..vision.vqa import load_blip2
from ..viz.overlays import sample_strip
from .drawing import natural_size
from .models import TINYWORLD
from .results import ResultFolder

NONE = "none"


@dataclass(frozen=True, slots=True)
class ConceptLabBackend:
    """The concept space, its image generator and VQA model, and the defaults of that space."""

    space: ConceptSpace
    image_generator: ImageGenerator | None
    questions: VQAModel | None
    defaults: SpaceDefaults = field(default_factory=SpaceDefaults)


def on_host(host: Host, prior: str, vqa: str) -> ConceptLabBackend:
    """TinyWorld's prior ("tinyworld"), or the text space of a base model ("none")."""
    is_tiny = prior == TINYWORLD
    image_generator = HostImageGenerator(
        host, steps=20 if is_tiny else 50, cfg=CFG if is_tiny else 7.5, size=natural_size(host)
    )
    questions = questions_of(vqa, host.device, host.dtype)
    if not is_tiny:
        return ConceptLabBackend(
            ClipSpace(host), image_generator, questions, SpaceDefaults((1.0, -1.0))
        )
    tiny = load_tiny_prior()
    space = prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection,
        scheduler=tiny.scheduler,
    )
    return ConceptLabBackend(
        space, image_generator, questions, SpaceDefaults(tiny.clamps, SENTENCES, GALLERY)
    )


def from_folders(
    prior: Path,
    decoder: Path | None,
    vqa: str,
    sampling: PriorSampling,
    device: torch.device,
    *,
    half: bool,
) -> ConceptLabBackend:
    """Kandinsky's or Karlo's prior, with its decoder if given; on a CPU always float32."""
    dtype = torch.float16 if half and device.type != "cpu" else torch.float32
    drawing = load_decoder(decoder, dtype) if decoder else None
    space = load_prior(prior, device, dtype, decoder=drawing)
    image_generator = None
    if drawing is not None:
        image_generator = decoder_generator(
            space, drawing, device, sampling=sampling, steps=50, cfg=7.5, size=(512, 512)
        )
    return ConceptLabBackend(space, image_generator, questions_of(vqa, device, dtype))


def questions_of(vqa: str, device: torch.device, dtype: torch.dtype) -> VQAModel | None:
    """The VQA model: "tinyworld" is the judge, "none" is None, else a BLIP-2 folder."""
    if vqa == NONE:
        return None
    return JudgeVQA() if vqa == TINYWORLD else load_blip2(Path(vqa), device, dtype)


def write_results(made: Invented, results: ResultFolder) -> None:
    """Every checkpoint, pictures, losses and similarities; the concept itself is there already."""
    for step in made.checkpoints.steps[:-1]:
        checkpoint = results.out / "checkpoints" / f"{step:06d}.safetensors"
        ResultFile(lambda concept, file=checkpoint: save_concept(concept, file)).save(made.at(step))
    samples, (similarity, losses) = made.samples, made.plots()
    results.write_pictures(
        similarity=similarity,
        losses=losses,
        timeline=made.timeline(),
        samples=None if samples is None else sample_strip(list(samples), made.concept.prompts),
    )
