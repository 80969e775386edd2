"""The ways of drawing several LoRAs in one picture that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from conceptloom.attention.local import LocalEdit
from conceptloom.attention.local_lora import LocalConfig, LocalLora, Part, parts_of, text_parts_of
from conceptloom.attention.local_masks import Cut, on_grid
from conceptloom.attention.local_setup import LocalSetup, local_setup
from conceptloom.host.ports import Host, Prompt
from conceptloom.samplers.ddim import sample_ddim
from conceptloom.tinyworld.presets import CFG

from . import local_edits

SEEN_AFTER = 5  # steps of the first pass of the way with two of them


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn: noise of several pictures, one prompt, and LoRAs.

    Attributes:
        noise: [n, C, h, w]
        truth: [n, G, h, w] true masks of the LoRAs, for the ways that are given them.
    """

    host: Host
    text: str
    noise: Tensor
    steps: int
    truth: Tensor


Draw = Callable[[Picture, Sequence[LocalLora]], Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    """One way, and the settings of the LoRAs that it has.

    Attributes:
        alone: pictures of each LoRA without the others.
        plain: prompts without trigger words.
    """

    about: str
    draw: Draw
    config: LocalConfig = field(default_factory=LocalConfig)
    alone: bool = False
    plain: bool = False
    beside: bool = False  # also one LoRA beside a known object


def without_loras(picture: Picture, _: Sequence[LocalLora]) -> Tensor:
    """The base model's own pictures."""
    return _drawn(picture, picture.host.encode_prompt)


def localised(
    edit: type[LocalEdit] = LocalEdit, *, own_text: bool = True
) -> Draw:  # fmt: skip
    """By the engine, or by one without an ingredient."""

    def draw(picture: Picture, loras: Sequence[LocalLora]) -> Tensor:
        setup = local_setup(picture.host, loras)
        made = _edit(setup, edit, picture)
        return _drawn(picture, setup.encode if own_text else setup.host.encode_prompt, [made])

    return draw


def merged(strength: float) -> Draw:
    """Added to the weights, as loaders do."""

    def draw(picture: Picture, loras: Sequence[LocalLora]) -> Tensor:
        with picture.host.edited(_weights(picture.host, loras, strength), trainable=False):
            return _drawn(picture, picture.host.encode_prompt)

    return draw


def under_true_masks(picture: Picture, loras: Sequence[LocalLora]) -> Tensor:
    """By the engine, with true masks instead of those that it locates."""
    setup = local_setup(picture.host, loras)
    edit = _edit(setup, local_edits.WithMasks, picture)
    edit.give(_in_order(setup, loras, picture.truth), _warm_up(picture))
    return _drawn(picture, setup.encode, [edit])


def hooked(*, late: bool) -> Draw:
    """One pass per region with its LoRA in the weights, mixed under true masks; the rest and the
    negative prompt are the base model's."""

    def draw(picture: Picture, loras: Sequence[LocalLora]) -> Tensor:
        first = _warm_up(picture) if late else 0
        regional: Any = _Regional(picture, loras, first)
        return _drawn(picture, picture.host.encode_prompt, host=regional)

    return draw


def in_two_passes(picture: Picture, loras: Sequence[LocalLora]) -> Tensor:
    """Masks of the first steps without LoRAs; then anew from noise with them, one text for all."""
    after = min(1.0, SEEN_AFTER / picture.steps)
    setup = local_setup(
        picture.host,
        [replace(lora, config=replace(lora.config, found_after=after)) for lora in loras],
    )
    masks = _first_masks(setup, picture)
    weights = _weights(picture.host, loras, 1.0)
    text = {name: edit for name, edit in weights.items() if name.startswith("text_encoders.")}
    with picture.host.edited(text, trainable=False):
        prompts = {words: picture.host.encode_prompt(words) for words in (picture.text, "")}
    edit = _edit(setup, local_edits.SharedText, picture)
    edit.give(masks, 0)
    return _drawn(picture, prompts.__getitem__, [edit])


class _Seen(Exception):
    """The first masks of a run are there."""


def _first_masks(setup: LocalSetup, picture: Picture) -> Tensor:
    seen: list[Tensor] = []

    def keep(masks: Tensor) -> None:
        seen.append(masks)
        raise _Seen

    edit = _edit(setup, LocalEdit, picture, keep)
    try:
        _drawn(picture, setup.encode, [edit])
    except _Seen:
        return seen[0]
    raise AssertionError("a run without masks")


class _Regional:
    """A host whose predictions are mixed of one pass per region."""

    def __init__(self, picture: Picture, loras: Sequence[LocalLora], first_step: int) -> None:
        host = self._host = picture.host
        self._loras = [_weights(host, [lora], 1.0) for lora in loras]
        self._masks, self._left = picture.truth, first_step
        self._prompts: list[Prompt] = []
        for weights in self._loras:
            with host.edited(weights, trainable=False):
                self._prompts.append(host.encode_prompt(picture.text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def predict(
        self, latent: Tensor, at: Tensor, prompts: Sequence[Prompt], edits: Any = (),
        conditional: Sequence[bool] = (),
    ) -> Tensor:  # fmt: skip
        plain = self._host.predict(latent, at, prompts)
        self._left -= 1
        if self._left >= 0:
            return plain
        n = len(self._masks)
        own = slice(len(latent) - n, None)  # behind the rows of the negative prompt
        masks = on_grid(self._masks, (latent.shape[-2], latent.shape[-1]))
        mixed = (1 - masks.sum(1, keepdim=True)) * plain[own]
        for g, weights in enumerate(self._loras):
            with self._host.edited(weights, trainable=False):
                region = self._host.predict(latent[own], at[own], [self._prompts[g]] * n)
            mixed = mixed + masks[:, g : g + 1] * region
        return torch.cat([plain[: len(latent) - n], mixed])


def _drawn(
    picture: Picture, encode: Callable[[str], Prompt], edits: Sequence[LocalEdit] = (),
    host: Host | None = None,
) -> Tensor:  # fmt: skip
    """Latents [n, C, h, w]."""
    return sample_ddim(
        host or picture.host, [encode(picture.text)], encode(""), picture.noise,
        steps=picture.steps, cfg=CFG, edits=edits,
    )  # fmt: skip


def _edit(setup: LocalSetup, edit: type[Any], picture: Picture, on_masks: Any = None) -> Any:
    path = setup.host.noise_path
    return edit(
        setup.loras, setup.layers, path.timesteps(picture.steps), path.last_t, on_masks
    )  # fmt: skip


def _in_order(setup: LocalSetup, loras: Sequence[LocalLora], masks: Tensor) -> Tensor:
    """Masks of LoRAs as they came -> in the order of a setup."""
    place = {lora.key: g for g, lora in enumerate(loras)}
    return masks[:, [place[lora.key] for lora in setup.loras]]


def _warm_up(picture: Picture) -> int:
    return max(1, int(LocalConfig().found_after * picture.steps + 1e-6))


def _weights(host: Host, loras: Sequence[LocalLora], strength: float) -> dict[str, Any]:
    """Weight -> with all LoRAs in it."""
    parts: dict[str, list[Part]] = {}
    for lora in loras:
        for name, part in (parts_of(lora, host.weight) | text_parts_of(lora, host.weight)).items():
            parts.setdefault(name, []).append(part)

    def added(found: Sequence[Part]) -> Callable[[Tensor], Tensor]:
        def edit(weight: Tensor) -> Tensor:
            changes = (factor * form.delta(weight.shape).to(weight) for form, factor in found)
            return weight + strength * sum(changes)

        return edit

    return {name: added(found) for name, found in parts.items()}


BASE, SAME_PROMPT = "base model", "base model, same prompt"
LOCAL, MERGED, WEAKER = "localised", "merged", "merged at 0.6"
HOOKS, LATE_HOOKS = "hooks under true masks", "hooks under true masks, late"
TWO_PASSES, TRUE = "two passes", "true masks"
ALONE, LOCAL_ALONE = "alone, merged", "alone, localised"
MAIN: Mapping[str, Way] = {
    SAME_PROMPT: Way("the base model with the trigger words", without_loras, beside=True),
    LOCAL: Way("Load LoRA (Localized) with its defaults", localised(), beside=True),
    MERGED: Way("Load LoRA, one after the other", merged(1.0), beside=True),
    ALONE: Way("each LoRA without the others, Load LoRA", merged(1.0), alone=True),
    BASE: Way("the base model with the words that it knows", without_loras, plain=True),
    LOCAL_ALONE: Way("each LoRA without the others, localised", localised(), alone=True),
    WEAKER: Way("Load LoRA with less strength", merged(0.6), beside=True),
    HOOKS: Way("masked conditioning with a LoRA hooked to each region", hooked(late=False)),
    TWO_PASSES: Way(
        "as FreeFuse: masks of 5 steps, then from noise again, one text for all", in_two_passes
    ),
    TRUE: Way("the engine, but masks of the base model's picture", under_true_masks),
    LATE_HOOKS: Way("the same from the fifth of the steps on", hooked(late=True)),
}  # fmt: skip
ABLATIONS: Mapping[str, Way] = {
    "no warm-up": Way(
        "masks of the first step alone", localised(), LocalConfig(found_after=0.0)
    ),
    "masks of every pass": Way("as LAG, from the first step on", localised(local_edits.SamePass)),
    "masks not grown": Way("the cut as it is", localised(), LocalConfig(cut=Cut(grow=0.0))),
    "masks overlap": Way("no competition", localised(local_edits.NoCompetition)),
    "layers ungated": Way("LoRAs in the whole picture", localised(local_edits.Ungated)),
    "base model's text": Way("no keys and values of its own", localised(local_edits.BaseText)),
    "context not its own": Way(
        "the LoRA's text encoder left out", localised(own_text=False)
    ),
    "others' words readable": Way("nothing hidden", localised(local_edits.NothingHidden)),
    "negative rows of the base": Way(
        "LoRAs only with the prompt", localised(local_edits.NegativeOfBase)
    ),
}  # fmt: skip
SETTINGS: Mapping[str, Way] = {
    "fade in to 0.5": Way("while it is located", localised(), LocalConfig(fade_in=0.5)),
    "fade in to 1": Way("while it is located", localised(), LocalConfig(fade_in=1.0)),
    "grow by 0.3 of the size": Way(
        "and by 0.06 of the side", localised(), LocalConfig(cut=Cut(grow_by_size=0.3))
    ),
    "second look at 0.5": Way(
        "masks made anew half-way", localised(), LocalConfig(second_look=0.5)
    ),
    "all three": Way(
        "fade in to 0.5, grow by 0.3, second look at 0.5",
        localised(),
        LocalConfig(fade_in=0.5, second_look=0.5, cut=Cut(grow_by_size=0.3)),
    ),
}
WAYS: Mapping[str, Way] = {**MAIN, **ABLATIONS, **SETTINGS}
