"""Draw docs/screenshots/readme.jpg, README's picture, from what workflow 2 made.

.venv/bin/python scripts/readme_picture.py      after a change of its thumbnail
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from workflow_stories import SCENE_SEED, TAUGHT

from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.named import identity_of
from conceptloom.tinyworld.scenes import Scene

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "screenshots" / "readme.jpg"
SIZE, SIDE, TOP = (1200, 330), 236, 52
INK, SOFT, BLUE, GOLD, PAPER = "#222222", "#777777", "#0068a5", "#956500", "#fcfcfa"
CELL, GAP = 120, 8  # of workflow 2's thumbnail, four by three
# Row of pictures in the thumbnail -> handles that it asks for, and its prompt in two lines.
ROWS = (
    (("my-mug",), "a photo of <my-mug>", "on the grass"),
    (("my-fish",), "a photo of <my-fish>", "in the sky"),
    (("my-mug", "my-fish"), "a photo of <my-mug> and", "<my-fish> at the beach"),
)


def main() -> None:
    sheet = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(21), ImageFont.load_default(16)
    scene = concept_scene([name for name, _ in TAUGHT.values()], SCENE_SEED)
    sheet.paste(_square(_outlined(scene)), (24, TOP))
    pen.text((24, 18), "one picture, a mask per object", INK, bold)
    for number, (handle, colour) in enumerate(zip(TAUGHT, (BLUE, GOLD), strict=True)):
        place = (24 + 116 * number, TOP + SIDE + 8)
        pen.text(place, f"{number + 1}  <{handle}>", colour, plain)
    middle = TOP + SIDE // 2
    pen.line((284, middle, 340, middle), SOFT, 4)
    pen.polygon(((340, middle - 12), (362, middle), (340, middle + 12)), SOFT)
    pen.text((400, 18), "the words in new prompts", INK, bold)
    with Image.open(ROOT / "workflows" / "2-use-the-words.jpg") as drawn:
        for place, (handles, *lines) in enumerate(ROWS):
            x = 400 + place * (SIDE + 26)
            sheet.paste(_square(_likest(drawn, place, handles)), (x, TOP))
            for number, line in enumerate(lines):
                pen.text((x, TOP + SIDE + 4 + 18 * number), line, INK, plain)
    sheet.save(TARGET, quality=88, optimize=True)


def _outlined(scene: Scene) -> Image.Image:
    """The training picture with its masks outlined in the colours of their names."""
    large = (2 * SIDE, 2 * SIDE)
    image = Image.fromarray(scene.image).resize(large, Image.Resampling.LANCZOS)
    for mask, colour in zip(scene.masks, (BLUE, GOLD), strict=True):
        grey = Image.fromarray((255 * mask).astype(np.uint8)).resize(
            large, Image.Resampling.BICUBIC
        )
        inside = grey.point(lambda value: 255 * (value > 127))
        edge = ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(9)), inside)
        image.paste(colour, mask=edge)
    return image


def _likest(drawn: Image.Image, row: int, handles: Sequence[str]) -> Image.Image:
    """The picture of a row with as many objects as asked, and of those the most alike."""
    cells = [
        drawn.crop((left, top, left + CELL, top + CELL))
        for top in [row * (CELL + GAP) + GAP // 2]
        for left in range(GAP // 2, drawn.width, CELL + GAP)
    ]

    def worth(cell: Image.Image) -> tuple[int, float]:
        objects = load_judge().find(np.asarray(cell.convert("RGB")))
        alike = min(identity_of(objects, TAUGHT[handle][0]).similarity for handle in handles)
        return -abs(len(objects) - len(handles)), alike

    return max(cells, key=worth)


def _square(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
