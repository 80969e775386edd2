"""A localised LoRA: the user's request, and its form for the edit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..concepts.changes import Diff
from ..concepts.lora_dense import resolved
from ..concepts.lora_file import LoraFile
from ..concepts.lora_forms import Computed, Difference, Form
from ..errors import ConfigError, MaskError, PromptError
from ..host.ports import Tokens, find_run, find_runs
from ..host.roles import is_of_adapter
from .local_layers import Applied, added, added_bias
from .local_masks import Cut, MaskMeans

Part = tuple[Applied, float]  # what is added to a weight, and a factor


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalConfig:
    """How one LoRA is localised."""

    found_after: float = 0.2  # share of the steps in which the base model alone shows the place
    end: float = 1.0  # share of the steps after which the base model is alone again
    cut: Cut = field(default_factory=Cut)
    mask_means: MaskMeans = MaskMeans.EXACTLY
    fade_in: float = 0.0  # strength that it rises to while it is looked for, inside its mask so far
    second_look: float = 1.0  # share of the steps after which masks are made anew; 1: never

    def __post_init__(self) -> None:
        for name in ("found_after", "end", "fade_in", "second_look"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalLora:
    """One LoRA and where it belongs.

    Attributes:
        name: of its file, for messages.
        words: that the base model knows, as they stand in the prompt; they tell where it belongs.
        tokens: the same words as tokens of the first text encoder.
        trigger: tokens that stand before the words and tell them from the same words of another
            LoRA: a trigger word, or the handle of a concept. Empty: the words count wherever they
            stand.
        strength: on the UNet; 0 leaves it to the base model.
        text_strength: on the text encoders, whose context only this LoRA's region reads.
        mask: [H, W], 0..1, painted by the user, or None.
        label: what previews call it; by default its words.
    """

    file: LoraFile
    name: str
    words: str
    tokens: Tokens
    strength: float = 1.0
    text_strength: float = 1.0
    config: LocalConfig = field(default_factory=LocalConfig)
    mask: Tensor | None = None
    trigger: Tokens = ()
    label: str = ""

    def __post_init__(self) -> None:
        for name in ("strength", "text_strength"):
            if not abs(getattr(self, name)) < 1e6:
                raise ConfigError(name, getattr(self, name), "a finite number")
        if self.mask is not None and (self.mask.ndim != 2 or not self.mask.isfinite().all()):
            raise MaskError(
                f"The mask of {self.name} has the shape {list(self.mask.shape)} or holds NaN; give "
                "one mask, height x width of numbers from 0 to 1."
            )
        if not self.tokens and self.mask is None:
            raise ConfigError(
                "words",
                self.words,
                "the words of the prompt that show where the LoRA belongs, such as: girl with blue "
                "hair; or connect a mask",
            )

    @property
    def key(self) -> str:
        """Tells it from other LoRAs, whatever their order; strengths do not count."""
        digest = hashlib.sha256(f"{self.file.identity} {self.tokens} {self.config}".encode())
        if self.trigger:
            digest.update(repr(self.trigger).encode())
        if self.mask is not None:
            digest.update(self.mask.cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def is_exact(self) -> bool:
        """Whether a painted mask alone says where it works."""
        exact = self.config.mask_means is MaskMeans.EXACTLY
        return self.mask is not None and (exact or not self.tokens)

    @property
    def shown_as(self) -> str:
        """What previews call it."""
        return self.label or self.words or self.name

    @property
    def is_off(self) -> bool:
        """Whether it changes nothing anywhere."""
        return not self.strength and not self.text_strength

    def places(self, tokens: Tokens) -> tuple[int, ...]:
        """Positions of its words in a prompt: behind each trigger the words that come first."""
        if not self.trigger:
            return find_run(tokens, self.tokens)
        runs, places = find_runs(tokens, self.tokens), dict[int, None]()
        for mark in find_runs(tokens, self.trigger):
            if behind := [run for run in runs if run[0] >= mark[0]]:
                places |= dict.fromkeys(behind[0])
        return tuple(places)

    def passage(self, tokens: Tokens) -> tuple[int, ...]:
        """What of a prompt speaks of this LoRA alone, so that places of others do not read it."""
        places = self.places(tokens)
        return (*places, *find_run(tokens, self.trigger)) if places else ()


def joined(loras: Sequence[LocalLora]) -> tuple[LocalLora, ...]:
    """Every LoRA once, in an order of their own; the strengths of one that comes twice add up.

    Raises:
        PromptError: two LoRAs are looked for by the same words.
    """
    joined_loras: dict[str, LocalLora] = {}
    for lora in loras:
        before = joined_loras.get(lora.key)
        if before is not None:
            lora = replace(
                before,
                strength=before.strength + lora.strength,
                text_strength=before.text_strength + lora.text_strength,
            )
        joined_loras[lora.key] = lora
    ordered = tuple(joined_loras[key] for key in sorted(joined_loras))
    for one, other in _pairs(ordered):
        are_marked = one.trigger and other.trigger and one.trigger != other.trigger
        if one.tokens == other.tokens and not are_marked:
            raise _alike(one, other)
    return ordered


def _pairs(loras: Sequence[LocalLora]) -> list[tuple[LocalLora, LocalLora]]:
    """Those that nothing but their words tells apart."""
    located = [lora for lora in loras if not lora.is_exact]
    return [
        (one, other)
        for one, other in itertools.combinations(located, 2)
        if not _painted_apart(one, other)
    ]


def _painted_apart(one: LocalLora, other: LocalLora) -> bool:
    """Whether both have masks that share less than half of the smaller one."""
    if one.mask is None or other.mask is None:
        return False
    first = one.mask.float()
    second = F.interpolate(other.mask[None, None].float(), first.shape, mode="area")[0, 0]
    smaller = min(float(first.sum()), float(second.sum()))
    return float((first * second).sum()) < smaller / 2


def _alike(one: LocalLora, other: LocalLora) -> PromptError:
    return PromptError(
        f'{one.name} and {other.name} are both looked for at "{one.words}", so they cannot be '
        "told apart. Give each of them words of its own; or write its trigger word before the "
        "words in the prompt and name it in the loader; or connect a mask to each."
    )


def check_prompts(loras: Sequence[LocalLora], prompts: Mapping[str, Tokens]) -> None:
    """Whether the words of every LoRA stand in a prompt, and not at the place of another's.

    Args:
        prompts: text, or what it is called -> its tokens; only those that are no negative ones.

    Raises:
        PromptError: they do not.
    """
    for lora in (lora for lora in loras if not lora.is_exact):
        if not any(lora.places(tokens) for tokens in prompts.values()):
            behind = " behind its trigger" if lora.trigger else ""
            raise PromptError(
                f'No prompt holds the words "{lora.words}"{behind}, so {lora.name} cannot be '
                "placed; write them in the positive prompt exactly so, for example beside the "
                "trigger word."
            )
    for one, other in _pairs(loras):
        for tokens in prompts.values():
            if one.places(tokens) and one.places(tokens) == other.places(tokens):
                raise _alike(one, other)


def parts_of(
    lora: LocalLora, weight: Callable[[str], Tensor], difference: Difference | None = None
) -> dict[str, Part]:
    """Canonical weight name -> what a LoRA adds to it in the network, for layers of the picture.

    Args:
        weight: canonical name -> original weight.
        difference: the host's own way to merge what depends on the weight.
    """
    forms = {name: form for name, form in lora.file.unet.items() if not is_of_adapter(name)}
    return _parts(forms, lora.strength, weight, difference)


def text_parts_of(
    lora: LocalLora, weight: Callable[[str], Tensor], difference: Difference | None = None
) -> dict[str, Part]:
    """The same for what makes contexts: text encoders, and an adapter behind them."""
    forms = {name: form for name, form in lora.file.unet.items() if is_of_adapter(name)}
    of_adapter = _parts(forms, lora.strength, weight, difference)
    return of_adapter | _parts(lora.file.text, lora.text_strength, weight, difference)


def text_changed(part: Part, is_bias: bool, module: Any, inputs: Tensor, output: Tensor) -> Tensor:
    """What a layer of a text encoder gives with a LoRA."""
    form, factor = part
    if is_bias:
        assert isinstance(form, Diff)
        return output + factor * added_bias(form, module, output)
    return output + factor * added(form, module, inputs)


def _parts(
    forms: Mapping[str, Form], strength: float, weight: Callable[[str], Tensor],
    difference: Difference | None,
) -> dict[str, Part]:  # fmt: skip
    parts: dict[str, Part] = {}
    for name, form in forms.items() if strength else ():
        if isinstance(form, Computed):
            with torch.no_grad():
                original = weight(name).float().cpu()
                parts[name] = resolved(form, original, strength, difference, name), 1.0
        else:
            parts[name] = form, strength
    return parts
