"""The machine and a sheet of samples, for the figures of the bundled checkpoint."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from .checkpoint import TinyWorldModules
from .gate_figures import drawn, prompts_of


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
