"""Pictures of prompts with learned concepts."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from ..concepts.concept import AppliedConcepts, Concept, check_applies, renamed
from ..concepts.concept_file import load_concept
from ..errors import ConfigError, HandleError, InputError, PromptError
from ..host.ports import HandleVectors, Host, Progress, Prompt, UNetEdit, no_progress
from ..host.prompt_text import handles_in, misspelt
from ..samplers.ddim import sample_ddim, seeded_noise

log = logging.getLogger("conceptloom")

_NUMBER = r"[-+]?(?:[\d.]+(?:e[-+]?\d+)?|nan|inf)"
# Shortest file first, so that a new name may be a number.
_OPTION = re.compile(rf"(.+?):({_NUMBER})(?::([^:/\\]+))?", re.IGNORECASE)
SMALLEST_LATENT = 8  # cells a side; a UNet has nothing to halve below that


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How pictures are drawn."""

    negative: str = ""
    seed: int = 0
    steps: int = 50  # DDIM
    cfg: float = 7.5  # 1 looks at the prompt alone, more follows it harder
    size_px: tuple[int, int] = (512, 512)  # (H, W)

    def __post_init__(self) -> None:
        if not self.cfg >= 1 or self.cfg == float("inf"):
            raise ConfigError("cfg", self.cfg, "1 or more")


@dataclass(frozen=True, slots=True)
class ConceptOption:
    """What `--concept FILE[:STRENGTH[:NEWNAME]]` asks for."""

    file: Path
    strength: float = 1.0
    name: str = ""  # in place of the file's own; "old=new, old=new" where it has several

    def load(self) -> Concept:
        """The concept under the requested name; the file is not modified.

        Raises:
            ConceptFileError, HandleError: see `errors`.
        """
        concept = load_concept(self.file)
        return renamed(concept, new_names(concept, self.name)) if self.name else concept


def parsed_concept(option: str) -> ConceptOption:
    """FILE, FILE:STRENGTH or FILE:STRENGTH:NEWNAME.

    Raises:
        ConfigError: the strength is infinite or not a number.
    """
    match = _OPTION.fullmatch(option)
    if match is None:
        file, colon, number = option.rpartition(":")
        if colon and not Path(option).exists() and Path(file).is_file():
            raise ConfigError("strength", number, "a number, such as 0.8")
        return ConceptOption(Path(option))  # a colon may belong to the name: C:/mug.safetensors
    file, number, name = match.groups()
    try:
        strength = float(number)
    except ValueError:
        strength = float("nan")
    if not isfinite(strength):
        raise ConfigError("strength", number, "a number, such as 0.8")
    return ConceptOption(Path(file), strength, (name or "").strip())


def new_names(concept: Concept, text: str) -> dict[str, str]:
    """Old -> new name of "new", or of "old=new, old=new".

    Raises:
        HandleError: the concept has several names and the text does not say which one to replace.
    """
    if "=" in text:
        return dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)
    if len(concept.names) != 1:
        known = ", ".join(f"<{name}>" for name in concept.names)
        raise HandleError(
            f"The new name {text!r} came for a concept with {len(concept.names)} names, {known}; "
            f"specify which one it replaces: {concept.names[0]}={text}."
        )
    return {concept.names[0]: text}


def parsed_size(text: str) -> tuple[int, int]:
    """(H, W) of "WIDTHxHEIGHT", or of one number for both."""
    width, x, height = text.lower().partition("x")
    try:
        return int(height if x else width), int(width)
    except ValueError as error:
        allowed = "like 512x768 (width x height), or 512 for a square"
        raise ConfigError("size", text, allowed) from error


def load_concepts(host: Host, options: Sequence[str]) -> list[tuple[Concept, float]]:
    """The concept files of `--concept FILE[:STRENGTH[:NEWNAME]]` with their strengths.

    Raises:
        ConceptFileError, BaseMismatchError: see `errors`.
    """
    loaded: list[tuple[Concept, float]] = []
    for option in map(parsed_concept, options):
        concept = option.load()
        check_applies(concept, host.fingerprint)
        loaded.append((concept, option.strength))
    return loaded


def check_prompts(prompts: Sequence[str], stack: AppliedConcepts) -> None:
    """Check that every handle of the prompts was loaded.

    Raises:
        PromptError: a prompt contains an unknown or misspelt handle.
        InputError: there is nothing to draw.
    """
    if not prompts:
        raise InputError("There is no prompt; pass --prompt.")
    for prompt in prompts:
        if wrong := misspelt(prompt, stack.handles):
            remedy = "" if stack.handles else " Load a concept file with --concept."
            raise PromptError(f"The prompt {prompt!r}: {wrong[0]}{remedy}")


def tell_wordless(prompts: Sequence[str], stack: AppliedConcepts) -> None:
    """Warn about each prompt that contains none of the loaded concepts."""
    known = ", ".join(f"<{name}>" for name in stack.handles)
    for prompt in dict.fromkeys(prompts):
        if known and not stack.handles.keys() & set(handles_in(prompt)):
            log.warning("The prompt %r contains no learned word; known: %s.", prompt, known)


@torch.no_grad()
def draw(
    host: Host,
    prompts: Sequence[str],
    stack: AppliedConcepts,
    settings: Drawing,
    *,
    count: int = 1,
    edits: Sequence[UNetEdit] = (),
    encode: Callable[[str, HandleVectors], Prompt] | None = None,
    rows: int = 4,
    keep: Callable[[Tensor, str], None] = lambda picture, prompt: None,
    progress: Progress = no_progress,
) -> list[Tensor]:
    """`count` pictures [count, H, W, 3] for each prompt; picture i has the same noise in each.

    Args:
        edits: active in every forward pass.
        encode: encodes a prompt with handle vectors; default: the host's `encode_prompt`.
        rows: batch size of the sampler.
        keep: called with every finished picture [H, W, 3] and its prompt.
    """
    check_prompts(prompts, stack)
    check_prompts([settings.negative], stack)
    tell_wordless(prompts, stack)
    _check_size(host, settings.size_px)
    noise = seeded_noise(host, settings.seed, count, settings.size_px)
    drawn: list[Tensor] = []
    done, total = 0, count * len(prompts)
    with host.edited(stack.edits, trainable=False):
        encode = encode or host.encode_prompt
        negative = encode(settings.negative, stack.handles)
        for prompt in prompts:
            encoded = encode(prompt, stack.handles)
            pictures: list[Tensor] = []
            for part in noise.split(rows):
                latent = sample_ddim(
                    host,
                    [encoded],
                    negative,
                    part,
                    steps=settings.steps,
                    cfg=settings.cfg,
                    edits=edits,
                )
                pictures.append(host.decode_latent(latent))
                for picture in pictures[-1]:
                    keep(picture, prompt)
                done += part.shape[0]
                progress(done, total, "drawing")
            drawn.append(torch.cat(pictures))
    return drawn


def _check_size(host: Host, size_px: tuple[int, int]) -> None:
    step = host.pixels_per_latent
    for side in size_px:
        if side % step or side < step * SMALLEST_LATENT:
            raise ConfigError(
                "size",
                f"{size_px[1]}x{size_px[0]}",
                f"in multiples of {step} px, {step * SMALLEST_LATENT} or more, for this model",
            )


def natural_size(host: Host) -> tuple[int, int]:
    """Native size (H, W) of a model: 16 latent cells for TinyWorld, 64 for SD 1, 128 for others."""
    tiny, medium, large = 16, 64, 128
    channels = host.sites.transformers[0].width
    is_unet = bool(host.sites.resnets)
    cells = tiny if channels < 320 else medium if is_unet and len(host.encoders) == 1 else large
    return cells * host.pixels_per_latent, cells * host.pixels_per_latent
