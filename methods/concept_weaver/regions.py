"""Regions tied to concepts and prompts (Step 4 and the prompts of Step 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...attention.fusion import RegionSource
from ...attention.regions import region_masks
from ...concepts.concept import Change, Concept, check_base, weight_edits
from ...errors import HandleError, InputError, MaskError, PromptError
from ...host.ports import Host
from ...host.prompt_text import handles_in
from ...host.roles import is_of_adapter, text_encoder_of
from .config import RegionConfig
from .prompts import Subject, marked_word, weave_prompts

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RegionSpec:
    """A concept and its region.

    Attributes:
        concept: None for a plain region of the base model.
        word: of the sentence: the content of the region in the template.
        handle: of the concept, without brackets; "" selects the one with this initial word,
            or the first.
        prompt: p_+i by hand; "" derives it from the sentence.
    """

    concept: Concept | None
    word: str
    mask: Tensor | None = None  # [H, W], 0..1
    handle: str = ""
    prompt: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class WeaveRegion:
    """One part of the picture."""

    name: str  # for people: "<my-mug>", "a fish", "background"
    prompt: str  # p_+i
    concept: Concept | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """All parts of a picture, the background last.

    Attributes:
        parts: N regions, then the background.
        masks: [N + 1, H, W], summing to exactly 1.
        sentence: p_base.
    """

    parts: tuple[WeaveRegion, ...]
    masks: Tensor
    sentence: str

    @property
    def prompts(self) -> str:
        """All prompts, one a line, as a user reads and edits them."""
        lines = [f"base: {self.sentence}"]
        return "\n".join([*lines, *(f"{part.name}: {part.prompt}" for part in self.parts)])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.masks.shape[-2:]
        return height, width


def make_regions(
    sentence: str,
    region_specs: Sequence[RegionSpec],
    background: RegionSpec | None = None,
    config: RegionConfig | None = None,
) -> Regions:
    """Regions with their prompts.

    Args:
        sentence: p_base; holds every word whose region has no prompt of its own.
        background: its concept, word and prompt; its mask is the rest.

    Raises:
        InputError: a mask is missing or empty, or a word or a handle is unknown.
    """
    config = config or RegionConfig()
    if not region_specs:
        raise InputError("No region is connected; connect at least one concept with its mask.")
    handles = [_handle(region_spec) for region_spec in region_specs]
    names = [
        _name(region_spec, handle)
        for region_spec, handle in zip(region_specs, handles, strict=True)
    ]
    dense: list[Tensor] = []
    for region_spec, name in zip(region_specs, names, strict=True):
        if region_spec.mask is None:
            raise MaskError(f"The region of {name} has no mask; connect one, or remove the region.")
        dense.append(region_spec.mask)
    longer = max(dense[0].shape[-2:])
    masks = region_masks(
        dense, names, dilate_px=round(config.dilate * longer), priority=config.priority
    )
    prompts = _prompts(sentence, region_specs, handles, background)
    parts = [
        WeaveRegion(name, prompt, region_spec.concept)
        for name, prompt, region_spec in zip(names, prompts, region_specs, strict=False)
    ]
    last = WeaveRegion("background", prompts[-1], background.concept if background else None)
    for region_spec, handle, prompt in zip(region_specs, handles, prompts, strict=False):
        _check_prompt(handle, prompt, by_hand=bool(region_spec.prompt))
    if background is not None:
        _check_prompt(_handle(background), background.prompt, by_hand=bool(background.prompt))
    return Regions((*parts, last), masks, sentence)


def sources_of(host: Host, regions: Regions) -> list[RegionSource]:
    """What each region reads and changes, encoded with its own concept alone.

    Raises:
        BaseMismatchError: a concept was trained on another kind of model.
    """
    return [_source(host, part) for part in regions.parts]


def _source(host: Host, part: WeaveRegion) -> RegionSource:
    if part.concept is None:
        return RegionSource(host.encode_prompt(part.prompt).context)
    check_base(part.concept, host.fingerprint)
    text_edits = {n: e for n, e in weight_edits(part.concept).items() if _is_of_text(n)}
    with host.edited(text_edits, trainable=False):
        context = host.encode_prompt(part.prompt, part.concept.handles).context
    return RegionSource(context.detach(), _placed(host, part))


def _placed(host: Host, part: WeaveRegion) -> dict[str, Change]:
    """What a region's concept changes in layers that have a place in the picture."""
    assert part.concept is not None
    sites = host.sites.layers
    known = {name for site in sites for name in (site.weight, site.bias)}
    drawing = {n: c for n, c in part.concept.weights.items() if not _is_of_text(n)}
    if lost := [name for name in drawing if name not in known]:
        log.warning(
            "%s changes %d weights that have no place in the picture (embeddings of time and "
            "size), such as %s; they are left out of its region.",
            part.name, len(lost), lost[0],
        )  # fmt: skip
    return {name: change for name, change in drawing.items() if name in known}


def _is_of_text(weight: str) -> bool:
    """Whether a weight works on prompts alone."""
    return bool(text_encoder_of(weight)) or is_of_adapter(weight)


def _handle(region_spec: RegionSpec) -> str:
    if region_spec.concept is None:
        return ""
    names = region_spec.concept.names
    if region_spec.handle and region_spec.handle not in names:
        known = ", ".join(f"<{name}>" for name in names) or "none"
        raise HandleError(f"The concept has no handle <{region_spec.handle}>; it has {known}.")
    learned = [
        name
        for name in names
        if region_spec.concept.words.get(name, "") == region_spec.word.strip()
    ]
    return region_spec.handle or next(iter([*learned, *names]), "")


def _name(region_spec: RegionSpec, handle: str) -> str:
    return f"<{handle}>" if handle else region_spec.word or "a region without a word"


def _prompts(
    sentence: str,
    region_specs: Sequence[RegionSpec],
    handles: Sequence[str],
    background: RegionSpec | None,
) -> list[str]:
    """p_+i of all regions, and p_+bg last; those written by hand are not changed."""
    every = [region_spec for region_spec in region_specs if not region_spec.prompt]
    subjects = [
        Subject(region_spec.word, marked_word(region_spec.concept, handle, region_spec.word))
        for region_spec, handle in zip(region_specs, handles, strict=True)
        if not region_spec.prompt
    ]
    behind = None
    if background is not None and background.word and not background.prompt:
        handle = _handle(background)
        behind = Subject(background.word, marked_word(background.concept, handle, background.word))
    if any(not region_spec.word.strip() for region_spec in every):
        raise PromptError(
            "A region has neither a word nor a prompt; write the word of the sentence that it "
            "replaces."
        )
    # Subjects whose prompt is given by hand are dropped from the others' too, where they stand.
    named = [
        w for w in region_specs if w.prompt and w.word and w.word.casefold() in sentence.casefold()
    ]
    extra = [Subject(region_spec.word, region_spec.word) for region_spec in named]
    made = weave_prompts(sentence, [*subjects, *extra], behind)
    proposals = iter(made.regions)
    prompts = [region_spec.prompt or next(proposals) for region_spec in region_specs]
    return [*prompts, background.prompt if background and background.prompt else made.background]


def _check_prompt(handle: str, prompt: str, *, by_hand: bool) -> None:
    if by_hand and handle and handle not in handles_in(prompt):
        raise PromptError(
            f"The prompt {prompt!r} does not contain <{handle}>, the concept of its region; add "
            "it, or leave the prompt empty for a default."
        )
