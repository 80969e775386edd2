"""What a step of Concept Weaver costs: N concepts in one pass, a plain step, score mixing.

    .venv/bin/python benchmarks/weave_cost.py
    .venv/bin/python benchmarks/weave_cost.py --preset sd15 --device cuda --dtype bf16

Every step injects the same features, so what is compared is the fusing alone. The variants take
turns in one process, a step each, and what counts is the median of their ratios to the plain step
of the same round: whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from base_model import add_model_options, describe_model, open_model, page_of, picture_side
from measuring import clock_for, processor, settle

from conceptloom.attention.fusion import RegionFusion, RegionSource
from conceptloom.attention.regions import with_background
from conceptloom.concepts.concept import Diff
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.concept_weaver import InversionConfig, WeaveConfig, make_template
from conceptloom.methods.concept_weaver.features import feature_cost
from conceptloom.methods.concept_weaver.weave import host_injection
from conceptloom.samplers.sigmas import guided_output_at, output_at
from conceptloom.training.adapters import Scope, scope_weight_names

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "weave_cost.md"
COUNTS = (1, 2, 4)
STEPS = 4  # of the template that is timed; every step costs the same
Step = Callable[[], object]


def sources_of(host: DiffusersHost, count: int) -> list[RegionSource]:
    """Concepts that change every K and V, and the base model's background."""
    names = scope_weight_names(host.weight_names(), Scope.CROSS_ATTENTION_KV)
    prompt = host.encode_prompt("a photo of a mug and a cat")
    found = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        changes = {
            name: Diff(0.01 * torch.randn(host.weight(name).shape, generator=generator))
            for name in names
        }
        found.append(RegionSource(prompt.context, changes))
    return [*found, RegionSource(prompt.context)]


def stripes(count: int, side: int) -> torch.Tensor:
    """Regions side by side over the middle half of the picture."""
    masks = torch.zeros(count, side, side)
    for i in range(count):
        masks[i, side // 4 : -side // 4, i * side // count : (i + 1) * side // count] = 1
    return with_background(masks)


@torch.no_grad()
def steps_of(host: DiffusersHost, pixels: int) -> tuple[dict[str, Step], int, int]:
    """Name -> one step; then the bytes of the cache as told, and as met."""
    config = InversionConfig(refinements=0)
    image = torch.rand(1, pixels, pixels, 3, generator=torch.Generator().manual_seed(0))
    sigmas = host.noise_path.levels(STEPS)
    template = make_template(host, image, "a photo of a mug and a cat", sigmas, config)
    size = (template.trajectory.shape[-2], template.trajectory.shape[-1])
    told = feature_cost(host, template.blocks, size, config, STEPS)
    injection = host_injection(host, template, WeaveConfig())
    base, negative = host.encode_prompt("a photo of a mug and a cat"), host.encode_prompt("")
    point, sigma = template.trajectory[:1].to(host.device), float(template.sigmas[0])

    def guided(*edits: object) -> Step:
        every = [injection, *edits]
        return lambda: guided_output_at(host, point, sigma, base, negative, 7.5, every)

    found: dict[str, Step] = {"plain step": guided()}
    for count in COUNTS:
        sources, masks = sources_of(host, count), stripes(count, size[0])
        found[f"{count} concepts"] = guided(RegionFusion(sources, masks, 0.2))
    sources, everywhere = sources_of(host, 2), torch.ones(1, *size)
    models = [RegionFusion([source], everywhere) for source in sources]

    def mixing() -> None:
        for model in models:
            output_at(host, point, sigma, [base], [injection, model])
        output_at(host, point, sigma, [negative], [injection], [False])

    found["2 concepts, score mixing"] = mixing
    return found, told, template.feature_bytes()


def timed(steps: dict[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every step; of the CPU's own time where it computes."""
    clock = clock_for(device)
    rows: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = clock()
            with torch.no_grad():
                step()
            settle(device)
            if number:  # the first projects keys and values and warms up
                rows[name].append(clock() - began)
    return rows


def page(
    rows: dict[str, list[float]], told: int, met: int, options: argparse.Namespace, model: str
) -> str:
    plain = rows["plain step"]
    lines = [
        "# A step of Concept Weaver",
        "",
        f"    python benchmarks/weave_cost.py {' '.join(sys.argv[1:])}".rstrip(),
        "",
        f"{date.today()}, {processor(options.device)}, torch {torch.__version__.split('+')[0]}, "
        f"{options.dtype}, {options.rounds} rounds. {model}.",
        "",
        "Every step has two rows (with and without prompt) and injects the same features.",
        "",
        "| step | seconds | of plain | promised | |",
        "|---|--:|--:|--:|---|",
    ]
    for name, seconds in rows.items():
        ratio = statistics.median(s / p for s, p in zip(seconds, plain, strict=True))
        count = int(name.split()[0]) if name[0].isdigit() else 0
        mixes = name.endswith("mixing")
        limit = 1 + 0.1 * (count + 1)
        verdict = "" if mixes or not count else "met" if ratio <= limit else "**missed**"
        promised = "" if mixes or not count else f"at most {limit:.2f}"
        lines.append(
            f"| {name} | {statistics.median(seconds):.3f} | {ratio:.2f} | {promised} | {verdict} |"
        )
    verdict = "met" if told == met else "**missed**"
    lines += [
        "",
        "Score mixing takes N + 1 passes of one row and one for the negative prompt, where a plain "
        "step has two rows: (N + 2) / 2 plain steps, or N + 1 without guidance.",
        "",
        f"Cache of features: {told:,} bytes told before, {met:,} bytes kept: {verdict}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser, preset="35m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for the 35m preset")
    options = parser.parse_args()
    torch.set_num_threads(1)
    host = open_model(options)
    for network in (host.unet, host.vae, *(encoder.model for encoder in host._encoders)):
        network.eval().requires_grad_(False)
    steps, told, met = steps_of(host, picture_side(host))
    rows = timed(steps, options.rounds, options.device)
    text = page(rows, told, met, options, describe_model(options, host))
    print(text)
    if out := page_of(options, options.out, PAGE, "35m"):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
