"""The tables of beside_core.py: which graphs are compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beside_graphs import (
    Graph,
    Run,
    blended,
    differential,
    fused,
    lag,
    masked_conditioning,
    masked_hooks,
    noise_mask,
    plain,
    plain_loras,
    sampler_per_region,
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of a table; its graph leaves the drawn latents in node "drawn"."""

    title: str
    graph: Callable[[Run], Graph]
    anew: Sequence[str] = ()  # what every run gets a new copy of, so that nothing of it is cached


@dataclass(frozen=True, slots=True)
class Group:
    """Variants that are compared with each other; the first is the plain run, the second ours."""

    title: str
    variants: dict[str, Variant]
    count: int = 1


PLAIN = Variant("plain KSampler", plain)


def _regions(count: int) -> Group:
    variants = {
        "plain": PLAIN,
        "ours": Variant("Region Feature Fuser", fused),
        "ours, new template": Variant("the same, its template inverted anew", fused, ("image",)),
        "hooks": Variant("LoRA hooks under conditioning masks", masked_hooks),
        "masks": Variant("all LoRAs loaded, conditioning masks", masked_conditioning),
        "samplers": Variant("a KSampler for the whole and one per region", sampler_per_region),
    }
    return Group(f"{count} concepts in regions", variants, count)


def _localised(count: int) -> Group:
    told = "1 concept" if count == 1 else f"{count} concepts"
    variants = {
        "plain": PLAIN,
        "ours": Variant("Apply LAG", lag),
        "loras": Variant("Load LoRA", plain_loras),
    }
    return Group(f"{told} that should not bleed", variants, count)


GROUPS = {
    "mask": Group(
        "An edit under a mask",
        {
            "plain": PLAIN,
            "ours": Variant("Masked Blended Sampler", blended),
            "noise mask": Variant("Set Latent Noise Mask", noise_mask),
            "differential": Variant("the same with Differential Diffusion", differential),
        },
    ),
    "weave-2": _regions(2),
    "weave-3": _regions(3),
    "lag-1": _localised(1),
    "lag-3": _localised(3),
}
