"""Draws a learned detail into a photograph, under masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..concepts.concept import AppliedConcepts
from ..errors import PromptError
from ..host.ports import Host, Progress, no_progress
from ..host.prompt_text import HANDLE, composed, handles_in
from ..samplers.editing import EditConfig, Region, edit_latents
from ..samplers.masks import composited, picture_masks
from .drawing import check_prompts, tell_wordless
from .mask_reader import read_mask
from .own_pictures import picture_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """What is drawn where."""

    image: Path
    masks: Sequence[Path]
    prompts: Sequence[str]  # one, or one for each mask
    words: Sequence[str] = ()  # that guidance pulls in; each goes with the prompts that hold it
    negative: str = ""
    plain: str = ""  # prompt of the harmonising steps
    seed: int = 0
    count: int = 1
    composite: bool = True
    feather_px: int = 4
    config: EditConfig = field(default_factory=EditConfig)


def transferred(
    host: Host, request: Transfer, stack: AppliedConcepts, progress: Progress = no_progress
) -> Tensor:
    """Pictures [count, H, W, 3] with the concept under the masks.

    Raises:
        ImageError, MaskError, PromptError: see `errors`.
    """
    image, masks = picture_for(host, request.image), [read_mask(path) for path in request.masks]
    texts = _prompts(request)
    check_prompts([*texts, request.plain, request.negative], stack)
    tell_wordless([" ".join(texts)], stack)
    planes = [picture_masks(mask, (image.shape[0], image.shape[1]))[0] for mask in masks]
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        prompts = [host.encode_prompt(text, stack.handles) for text in texts]
        negative = host.encode_prompt(request.negative, stack.handles)
        source = host.encode_image(image[None])
    plain = host.encode_prompt(request.plain) if request.plain else None
    words = [tuple(word for word in request.words if _holds(text, word)) for text in texts]
    if lost := [word for word in request.words if not any(_holds(text, word) for text in texts)]:
        raise PromptError(f"No prompt contains {lost[0]!r}; add it, or guide another word.")
    regions = [Region(*parts) for parts in zip(prompts, planes, words, strict=True)]
    latents = edit_latents(
        host, source, regions, negative, request.config,
        weights=stack.edits, plain=plain, seed=request.seed, rows=request.count, progress=progress,
    )  # fmt: skip
    drawn = host.decode_latent(latents)
    if not request.composite:
        return drawn
    union = torch.stack(planes).amax(dim=0)
    return composited(drawn, image[None], union, request.feather_px)


def _holds(text: str, word: str) -> bool:
    handle = HANDLE.fullmatch(word)
    return composed(handle[1]) in handles_in(text) if handle else word in text


def _prompts(request: Transfer) -> list[str]:
    prompts = list(request.prompts)
    if len(prompts) not in (1, len(request.masks)):
        raise PromptError(
            f"{len(prompts)} prompts came for {len(request.masks)} masks; pass one for each "
            "mask in order, or a single one."
        )
    return prompts * len(request.masks) if len(prompts) == 1 else prompts
