"""Guidance from strong removal to strong pull: does the concept follow its eta?

    .venv/bin/python benchmarks/clic_eta.py --quick
    .venv/bin/python benchmarks/clic_eta.py

Learns ornaments of TinyWorld with CLiC, carries each onto the bare part of another object with
every eta of cross-attention guidance, same seeds for all, and measures what came: how much the word
is attended to under the mask, and how like the ornament it looks to the oracle. Learned concepts
stand below `runs/clic_ornaments/` and are not learned again.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from clic_ornaments import learned_ornament
from clic_plan import FULL, HANDLE, PAIRS, QUICK, DetailBudget, Pair, config_of
from clic_sweeps import attention_under, describe_trend
from PIL import Image
from quality_runs import asked, command_of, write_page
from quality_tables import describe_machine
from torch import Tensor

from conceptloom.cli.demo.judge import as_image
from conceptloom.cli.models import open_host
from conceptloom.concepts.concept import Concept, stacked
from conceptloom.host.ports import Host
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.samplers.masks import composited
from conceptloom.tinyworld.oracle import likeness, load_oracle
from conceptloom.viz.overlays import sample_strip

NAME = "clic_eta"
ETAS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)
QUICK_ETAS = (-0.2, -0.05, 0.0, 0.05, 0.2)
GUIDED = 0.6  # of the steps, the first ones; CLiC's official code


@dataclass(frozen=True, slots=True)
class Reading:
    """One edited picture."""

    attention: float  # mean probability of the word under the mask
    identity: float  # best cosine with the ornament's reference
    outside: float  # largest change of a pixel outside of the mask
    picture: Tensor


def edited(
    host: Host, pair: Pair, concept: Concept, seed: int, etas: Sequence[float], budget: DetailBudget
) -> list[Reading]:
    """The target of a pair with every eta, from the same noise."""
    stack, oracle = stacked([(concept, 1.0)]), load_oracle()
    reference = oracle.reference(pair.taught.image, pair.taught.masks[1])
    mask, image = torch.from_numpy(pair.bare.masks[1]), as_image(pair.bare.image)
    told = config_of(pair, budget, 0, "whole method").prompt_of(HANDLE)
    text = told.replace(pair.source, pair.target)
    readings: list[Reading] = []
    for eta in etas:
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt = host.encode_prompt(text, stack.handles)
            negative = host.encode_prompt("")
        config = EditConfig(
            steps=budget.sampling_steps,
            cfg=budget.cfg,
            blend=BlendConfig(start=budget.start),
            guidance=GuidanceConfig(eta=eta, steps=round(GUIDED * budget.sampling_steps)),
        )
        region = Region(prompt, mask, (f"<{HANDLE}>",))
        latent = edit_latents(
            host, host.encode_image(image[None]), [region], negative, config,
            weights=stack.edits, seed=seed,
        )  # fmt: skip
        picture = composited(host.decode_latent(latent), image[None], mask, 0)[0]
        with host.edited(stack.edits, trainable=False):
            attention = attention_under(host, latent, prompt, f"<{HANDLE}>", mask, level=1)
        change = (picture - image).abs().amax(dim=-1)[mask == 0].max()
        readings.append(
            Reading(
                attention,
                likeness(oracle.describe(picture, mask), reference),
                float(change),
                picture,
            )
        )
    return readings


def main() -> None:
    quick = "two pairs, two seeds, short runs"
    options = asked(NAME, __doc__, quick, divisible=False, keeps=False)
    host = open_host(device="cpu")
    pairs, seeds = (PAIRS[:2], 2) if options.quick else (PAIRS, 3)
    etas, budget = (QUICK_ETAS, QUICK) if options.quick else (ETAS, FULL)
    rows: list[list[Reading]] = []
    for pair in pairs:
        concept = learned_ornament(host, pair, budget)
        for seed in range(seeds):
            rows.append(edited(host, pair, concept, seed, etas, budget))
            told = ", ".join(f"{r.attention:.4f}/{r.identity:.2f}" for r in rows[-1])
            print(f"{pair.name}, seed {seed}: {told}", flush=True)
    sheet = options.out.with_suffix(".jpg")
    command = command_of(NAME, options)
    write_page(page(rows, etas, pairs, budget, command, sheet.name), options.out)
    strip = sample_strip(
        [reading.picture for row in rows[::seeds] for reading in row],
        [f"eta {eta:g}" for _ in rows[::seeds] for eta in etas],
        n_columns=len(etas),
    )
    pixels = (strip.clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(sheet, quality=90)


def page(
    rows: Sequence[Sequence[Reading]], etas: Sequence[float], pairs: Sequence[Pair],
    budget: DetailBudget, command: str, sheet: str,
) -> str:  # fmt: skip
    def mean(kind: str, column: int) -> float:
        return statistics.mean(getattr(row[column], kind) for row in rows)

    def rises(kind: str) -> str:
        return describe_trend([[getattr(r, kind) for r in row] for row in rows], "eta", etas)

    lines = [
        "# Guidance: does the concept follow its eta?",
        "",
        f"    {command}",
        "",
        f"{describe_machine()}. {len(rows)} series "
        f"({'; '.join(pair.name for pair in pairs)}), CLiC with {budget.token_steps} + "
        f"{budget.weight_steps} steps, {budget.sampling_steps} sampling steps of which the first "
        f"{round(GUIDED * budget.sampling_steps)} are guided, sign rule, the mask as target.",
        "",
        "| eta | attention under the mask | likeness to the ornament | change outside |",
        "|--:|--:|--:|--:|",
    ]
    for column, eta in enumerate(etas):
        outside = max(row[column].outside for row in rows)
        lines.append(
            f"| {eta:g} | {mean('attention', column):.4f} | {mean('identity', column):.3f} | "
            f"{outside:g} |"
        )
    lines += [
        "",
        f"Attention under the mask {rises('attention')}.",
        f"Likeness {rises('identity')}.",
        "",
        f"![From removal to pull]({sheet})",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
