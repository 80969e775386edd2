"""What the bundled checkpoint reaches: `python -m conceptloom.tinyworld.gates`.

Measures it (gate_figures.py), and writes the table and a sheet of samples to `docs/results/`.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
from datetime import date
from pathlib import Path

from .checkpoint import CHECKPOINT, TinyWorldModules, load_tinyworld, read_checkpoint
from .gate_figures import Gate, Reading, drawn, measure, prompts_of
from .sampling import GUIDANCE, STEPS

log = logging.getLogger("conceptloom")
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def report(gates: list[Gate], readings: list[Reading], path: Path, count: int) -> str:
    """The page for `docs/results/tinyworld.md`."""
    training = read_checkpoint(path).training
    one, _, two, _ = readings
    rows = [
        f"| {g.name} | {'at most ' if g.at_most else ''}{g.asked:g} {g.unit} | {g.reached:g} "
        f"{g.unit} | {'' if g.ceiling is None else f'{g.ceiling:g} {g.unit}'} "
        f"| {'yes' if g.passed else '**no**'} |"
        for g in gates
    ]
    lines = [
        "# TinyWorld: what the bundled checkpoint reaches",
        "",
        f"`python -m conceptloom.tinyworld.gates` on {date.today().isoformat()}, "
        f"{machine()}; {count} prompts of each kind, {STEPS} DDIM steps, "
        f"guidance {GUIDANCE:g}.",
        "",
        "| gate | asked | reached | oracle on true pictures | passed |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Of two objects, {100 * two.colour:.0f} % have their colour and {100 * two.shape:.0f} % "
        f"colour and shape; of single ones {100 * one.both:.0f} % have both.",
        "",
        f"Trained for {training['minutes']} minutes on {training['samples']} samples "
        f"({training['dataset']} different ones), batch {training['batch']}, learning rate "
        f"{training['learning_rate']}; the autoencoder for {training['autoencoder_minutes']} "
        "minutes before that.",
        "",
        "![samples](tinyworld_samples.jpg)",
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    """The processor and its cores, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [s for s in info.read_text().split("\n") if s.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def sample_sheet(world: TinyWorldModules, path: Path) -> None:
    """A picture of 32 prompts with their samples."""
    from PIL import Image, ImageDraw

    prompts = [*prompts_of(16, 1, 7), *prompts_of(16, 2, 7)]
    images = drawn(world, [p for p, _, _ in prompts], 7)
    cell, text, columns = 132, 34, 8
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (cell + 4), rows * (cell + text)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, (prompt, _, _)) in enumerate(zip(images, prompts, strict=True)):
        x, y = i % columns * (cell + 4), i // columns * (cell + text)
        pixels = (image * 255).round().byte().numpy()
        sheet.paste(Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST), (x, y))
        words = prompt.removeprefix("a photo of ")
        for line in range(3):
            pen.text((x, y + cell + 10 * line), words[22 * line : 22 * line + 22], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the page and the sheet."""
    p = argparse.ArgumentParser(prog="python -m conceptloom.tinyworld.gates")
    p.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    p.add_argument("--count", type=int, default=128, help="prompts of each kind")
    p.add_argument("--output", type=Path, default=RESULTS)
    args = p.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world = load_tinyworld(args.checkpoint)
    gates, readings = measure(world, args.checkpoint, args.count)
    args.output.mkdir(parents=True, exist_ok=True)
    text = report(gates, readings, args.checkpoint, args.count)
    (args.output / "tinyworld.md").write_text(text)
    sample_sheet(world, args.output / "tinyworld_samples.jpg")
    log.info("%s", text)


if __name__ == "__main__":
    main()
