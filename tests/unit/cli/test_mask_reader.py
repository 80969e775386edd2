"""Masks as people have them come out as the region that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conceptloom.cli.mask_reader import mask_file, mask_of, read_mask
from conceptloom.cli.scene_files import files_of_scene, scene_from_folder, scene_from_options
from conceptloom.errors import MaskError

H, W = 48, 64
Y, X = np.mgrid[:H, :W]
DISC = (X - 28) ** 2 + (Y - 22) ** 2 < 225
STRIPE = (X > 48) & (X < 60)
RIGHT = torch.from_numpy(DISC).float()


def palette_picture(labels: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.frombytes("P", (W, H), labels.astype(np.uint8).tobytes())
    picture.putpalette(colours + [0] * (768 - len(colours)))
    return picture


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 753 + [224, 224, 192]


def painted(*colours: tuple[int, int, int]) -> Image.Image:
    """The disc, then the stripe, in these colours."""
    values = np.zeros((H, W, 3), np.uint8)
    for colour, where in zip(colours, (DISC, STRIPE), strict=False):
        values[where] = colour
    return Image.fromarray(values)


ONE_REGION = {
    "white": Image.fromarray((DISC * 255).astype(np.uint8)),
    "class 1 of a palette": palette_picture(DISC, VOC),
    "with a void border": palette_picture(np.where(DISC, 1, np.where(STRIPE, 255, 0)), VOC),
    "red": painted((255, 0, 0)),
    "dark red": painted((128, 0, 0)),
    "instance 26001 in 16 bits": Image.fromarray((DISC * 26001).astype(np.uint16)),
    "class 1 in 16 bits": Image.fromarray(DISC.astype(np.uint16)),
    "red first in its palette": palette_picture(~DISC, [255, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("kind", ONE_REGION)
def test_one_region_is_read_at_full_strength(tmp_path: Path, kind: str) -> None:
    ONE_REGION[kind].save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png"), RIGHT)
    assert bool(mask_of(tmp_path / "mask.png").remark) == (kind != "white")


def test_what_was_made_of_a_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    palette_picture(DISC, VOC).save(tmp_path / "voc.png")
    read_mask(tmp_path / "voc.png")
    assert "voc.png is a label picture; its class 1 becomes the mask." in caplog.text


SEVERAL = {
    "palette": (palette_picture(DISC + 3 * STRIPE, VOC), "2 classes: 1 (", "3"),
    "colours": (painted((255, 0, 0), (0, 0, 255)), "2 colours: ", "0000ff"),
    "16 bits": (Image.fromarray((DISC * 24 + STRIPE * 26).astype(np.uint16)), "2 classes", "26"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_classes_ask_which_and_take_the_answer(tmp_path: Path, kind: str) -> None:
    picture, told, stripe = SEVERAL[kind]
    picture.save(tmp_path / "labels.png")
    with pytest.raises(MaskError, match=r"labels\.png is a label picture") as caught:
        read_mask(tmp_path / "labels.png")
    assert told in str(caught.value)
    assert "#" in str(caught.value)
    assert torch.equal(
        read_mask(tmp_path / f"labels.png#{stripe}"), torch.from_numpy(STRIPE).float()
    )
    with pytest.raises(MaskError, match="has no pixel of 7"):
        read_mask(tmp_path / "labels.png#7")


def test_a_class_of_a_grey_label_picture_can_be_named(tmp_path: Path) -> None:
    Image.fromarray((DISC + 3 * STRIPE).astype(np.uint8)).save(tmp_path / "labels.png")
    assert torch.equal(read_mask(tmp_path / "labels.png#1"), RIGHT)
    Image.new("RGB", (W, H), (120, 130, 140)).save(tmp_path / "photo.png")
    with pytest.raises(MaskError, match="is a label picture with 2 classes"):
        scene_from_options([tmp_path / "photo.png"], [f"mug={tmp_path / 'labels.png'}"])
    scene = scene_from_options(
        [tmp_path / "photo.png"],
        [f"mug={tmp_path / 'labels.png'}#1:cup", f"bar={tmp_path / 'labels.png'}#3"],
    )
    assert torch.equal(scene.images[0].masks["mug"], RIGHT)
    assert scene.words == {"mug": "cup", "bar": ""}


def test_a_file_whose_name_has_a_hash_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a#1").write_bytes(b"")
    assert mask_file(tmp_path / "a#1") == (tmp_path / "a#1", "")
    assert mask_file(tmp_path / "b.png#1") == (tmp_path / "b.png", "1")


def test_a_scene_folder_takes_classes_and_names_each_file_once(tmp_path: Path) -> None:
    palette_picture(DISC + 3 * STRIPE, VOC).save(tmp_path / "labels.png")
    Image.new("RGB", (W, H), (120, 130, 140)).save(tmp_path / "photo.png")
    (tmp_path / "scene.json").write_text(
        '{"pictures": [{"image": "photo.png", '
        '"masks": {"mug": "labels.png#1", "bar": "labels.png#3"}}]}'
    )
    scene = scene_from_folder(tmp_path)
    assert torch.equal(scene.images[0].masks["mug"], RIGHT)
    assert [path.name for path in files_of_scene(tmp_path)] == [
        "scene.json",
        "photo.png",
        "labels.png",
    ]


def test_remarks_reach_the_scene(tmp_path: Path) -> None:
    palette_picture(DISC, VOC).save(tmp_path / "voc.png")
    Image.new("RGB", (W, H), (120, 130, 140)).save(tmp_path / "photo.png")
    scene = scene_from_options([tmp_path / "photo.png"], [f"mug={tmp_path / 'voc.png'}"])
    assert scene.remarks == ["The mask of <mug> is a label picture; its class 1 becomes the mask."]


def test_a_photograph_in_a_palette_is_no_mask(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).quantize(200)
    photo.putpalette([0, 0, 0, *(photo.getpalette() or [])[3:]])
    photo.save(tmp_path / "photo.png")
    with pytest.raises(MaskError, match="many colours"):
        read_mask(tmp_path / "photo.png")
