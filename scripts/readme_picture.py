"""Draw docs/screenshots/readme.jpg, README's picture, from what workflows 1 and 2 made.

.venv/bin/python scripts/readme_picture.py      after a change of their pictures
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "screenshots" / "readme.jpg"
SIZE, SIDE, TOP = (1200, 330), 236, 52
INK, SOFT, BLUE, GOLD, PAPER = "#222222", "#777777", "#0068a5", "#956500", "#fcfcfa"
# The scene with its outlines in the picture of Concept Scene's help page.
SCENE = (25, 25, 409, 409)
# Row and column of a picture in workflow 2's thumbnail, four by three.
CELL, GAP = 120, 8
PICTURES = (
    (0, 1, "a photo of <my-box>", "on a white background"),
    (1, 0, "a photo of <my-target>", "on the grass"),
    (2, 3, "a photo of <my-box> and", "<my-target> at the beach"),
)


def main() -> None:
    sheet = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(21), ImageFont.load_default(16)
    with Image.open(ROOT / "web" / "docs" / "images" / "concept-scene.jpg") as preview:
        sheet.paste(_square(preview.crop(SCENE)), (24, TOP))
    pen.text((24, 18), "one picture, a mask per object", INK, bold)
    pen.text((24, TOP + SIDE + 8), "1  <my-box>", BLUE, plain)
    pen.text((140, TOP + SIDE + 8), "2  <my-target>", GOLD, plain)
    middle = TOP + SIDE // 2
    pen.line((284, middle, 340, middle), SOFT, 4)
    pen.polygon(((340, middle - 12), (362, middle), (340, middle + 12)), SOFT)
    pen.text((400, 18), "the words in new prompts", INK, bold)
    with Image.open(ROOT / "workflows" / "2-use-the-words.jpg") as drawn:
        for place, (row, column, *lines) in enumerate(PICTURES):
            left, top = column * (CELL + GAP) + 4, row * (CELL + GAP) + 4
            x = 400 + place * (SIDE + 26)
            sheet.paste(_square(drawn.crop((left, top, left + CELL, top + CELL))), (x, TOP))
            for number, line in enumerate(lines):
                pen.text((x, TOP + SIDE + 4 + 18 * number), line, INK, plain)
    sheet.save(TARGET, quality=88, optimize=True)


def _square(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
