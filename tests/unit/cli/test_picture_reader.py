"""Every kind of file that people have gives the same picture, whatever Pillow calls its mode."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features
from torch import Tensor

from conceptloom.cli.evolve_command import photographs
from conceptloom.cli.mask_reader import read_mask
from conceptloom.cli.picture_reader import picture_endings, read_image, read_images
from conceptloom.errors import ImageError, MaskError

H, W = 24, 32
Y, X = np.mgrid[:H, :W]
DISC = (X - 13) ** 2 + (Y - 11) ** 2 < 64
GREY = (X * 8).astype(np.uint8)
RGB = np.stack([X * 8, Y * 10, (X + Y) * 4], -1).astype(np.uint8)
SOFT = np.clip(1 - np.hypot(X - 13, Y - 11) / 12, 0, 1)


def saved(tmp_path: Path, picture: Image.Image, name: str = "x.png", **options: Any) -> Path:
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def of_bytes(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32) / 255)


def grey_image() -> Tensor:
    return of_bytes(GREY)[..., None].expand(-1, -1, 3)


GREYS = {
    "8 bits": (GREY, "x.png"),
    "16 bits": (GREY.astype(np.uint16) * 257, "x.png"),
    "16 bits, big endian": ((GREY.astype(np.uint16) * 257).astype(">u2"), "x.tif"),
    "16 bits, portable": (GREY.astype(np.uint16) * 257, "x.pgm"),
    "32 bits that hold 8": (GREY.astype(np.int32), "x.tif"),
    "32 bits that hold 16": (GREY.astype(np.int32) * 257, "x.tif"),
    "floats of 0..1": (GREY.astype(np.float32) / 255, "x.tif"),
    "floats of 0..255": (GREY.astype(np.float32), "x.tif"),
}


@pytest.mark.parametrize("kind", GREYS)
def test_depth_does_not_change_brightness(tmp_path: Path, kind: str) -> None:
    values, name = GREYS[kind]
    path = saved(tmp_path, Image.fromarray(values), name)
    torch.testing.assert_close(read_image(path), grey_image(), atol=1e-6, rtol=0)
    torch.testing.assert_close(read_mask(path), of_bytes(GREY), atol=1e-6, rtol=0)


def test_a_soft_mask_of_16_bits_keeps_its_slope(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray((SOFT * 65535).astype(np.uint16)))
    torch.testing.assert_close(read_mask(path), torch.from_numpy(SOFT).float(), atol=2e-5, rtol=0)


def test_floats_a_little_above_one_are_clipped(tmp_path: Path) -> None:
    values = np.where(DISC, 1.2, 0.5).astype(np.float32)
    mask = read_mask(saved(tmp_path, Image.fromarray(values), "x.tif"))
    assert sorted(set(mask.flatten().tolist())) == [0.5, 1.0]


@pytest.mark.parametrize("bad", [np.nan, -1.0, 1e12])
def test_floats_without_a_scale_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.where(DISC, bad, 0.5).astype(np.float32)
    path = saved(tmp_path, Image.fromarray(values), "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif is not a readable picture"):
        read_image(path)


def hidden_red() -> np.ndarray:
    """The picture inside the disc; red under full transparency outside."""
    return np.where(DISC[..., None], RGB, np.uint8([255, 0, 0]))


def on_white(colour: np.ndarray) -> Tensor:
    return torch.where(torch.from_numpy(DISC)[..., None], of_bytes(colour), torch.ones(()))


def transparent(kind: str) -> tuple[Image.Image, Tensor]:
    """A picture that is opaque in the disc, and what should be seen."""
    opaque = Image.fromarray((DISC * 255).astype(np.uint8))
    grey = np.where(DISC, GREY, 7).astype(np.uint8)
    if kind == "RGBA":
        picture = Image.fromarray(hidden_red())
        picture.putalpha(opaque)
        return picture, on_white(RGB)
    if kind == "LA":
        picture = Image.fromarray(grey)
        picture.putalpha(opaque)
        return picture, on_white(GREY[..., None].repeat(3, -1))
    indices = np.where(DISC, 1, 0).astype(np.uint8)
    palette = Image.frombytes("P", (W, H), indices.tobytes())
    palette.putpalette([255, 0, 0, 10, 200, 30] + [0] * 762)
    palette.info["transparency"] = 0
    return palette, on_white(np.broadcast_to(np.uint8([10, 200, 30]), (H, W, 3)))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_lies_under_transparency_stays_hidden(tmp_path: Path, kind: str) -> None:
    picture, seen = transparent(kind)
    path = saved(tmp_path, picture)
    torch.testing.assert_close(read_image(path), seen, atol=1e-6, rtol=0)
    assert torch.equal(read_mask(path), torch.from_numpy(DISC).float())


def test_a_16_bit_grey_that_is_declared_transparent_is(tmp_path: Path) -> None:
    values = np.where(DISC, 40000, 1234).astype(np.uint16)
    path = saved(tmp_path, Image.fromarray(values), transparency=1234)
    assert torch.equal(read_mask(path), torch.from_numpy(DISC).float())
    image = read_image(path)
    assert image[0, 0].tolist() == [1.0, 1.0, 1.0]
    assert float(image[11, 13, 0]) == pytest.approx(40000 / 65535)


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (W, H), (0, 0, 0, 51))
    assert float(read_image(saved(tmp_path, picture)).mean()) == pytest.approx(0.8)


def test_an_opaque_alpha_leaves_colours_and_mask_alone(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB)
    picture.putalpha(255)
    path = saved(tmp_path, picture)
    assert torch.equal(read_image(path), of_bytes(RGB))
    assert torch.equal(read_mask(path), of_bytes(RGB.max(axis=-1)) / (int(RGB.max()) / 255))


def test_one_bit_and_palettes_are_what_they_show(tmp_path: Path) -> None:
    bits = Image.fromarray((DISC * 255).astype(np.uint8)).convert("1")
    assert torch.equal(read_mask(saved(tmp_path, bits)), torch.from_numpy(DISC).float())
    assert set(read_image(saved(tmp_path, bits)).flatten().tolist()) == {0.0, 1.0}
    gif = saved(tmp_path, Image.fromarray(np.where(DISC, 255, 0).astype(np.uint8)), "x.gif")
    assert torch.equal(read_mask(gif), torch.from_numpy(DISC).float())


def test_cmyk_and_lab_become_rgb(tmp_path: Path) -> None:
    seen = of_bytes(RGB)
    cmyk = saved(tmp_path, Image.fromarray(RGB).convert("CMYK"), "x.tif")
    torch.testing.assert_close(read_image(cmyk), seen, atol=2 / 255, rtol=0)
    to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    gentle = Image.fromarray((RGB // 2 + 64).astype(np.uint8))  # inside of 8-bit LAB's gamut
    lab = ImageCms.profileToProfile(gentle, *to_lab, outputMode="LAB")
    assert lab is not None
    back = read_image(saved(tmp_path, lab, "lab.tif"))
    torch.testing.assert_close(back, of_bytes(np.array(gentle)), atol=8 / 255, rtol=0)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_pictures_stand_as_their_exif_says(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    options = {"exif": exif} | ({"lossless": True} if name.endswith("webp") else {})
    path = saved(tmp_path, Image.fromarray(RGB), name, **options)
    assert torch.equal(read_image(path), of_bytes(np.rot90(RGB, -1).copy()))
    assert read_mask(path).shape == (W, H)


def test_a_deep_mask_stands_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert torch.equal(
        read_mask(saved(tmp_path, deep, exif=exif)), of_bytes(np.rot90(GREY, 2).copy())
    )


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.tif"])
def test_of_an_animation_the_first_frame_is_read_and_said(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (Image.new("RGB", (W, H), c) for c in ((0, 0, 0), (255, 255, 255)))
    options = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    assert float(read_image(tmp_path / name).max()) == 0
    assert f"{name} has 2 frames" in caplog.text


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (W, H), (200, 100, 50)), "x.avif", quality=100)
    torch.testing.assert_close(
        read_image(path)[5, 5], torch.tensor([200, 100, 50]) / 255, atol=4 / 255, rtol=0
    )


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    path = saved(tmp_path, Image.new("RGB", (64, 64), (200, 100, 50)), "x.heic", quality=100)
    torch.testing.assert_close(
        read_image(path)[5, 5], torch.tensor([200, 100, 50]) / 255, atol=4 / 255, rtol=0
    )


def test_heic_without_its_plugin_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheixnothing more")
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        read_image(tmp_path / "x.heic")


def test_an_installed_plugin_is_registered_when_a_file_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    plugin = SimpleNamespace(register_heif_opener=lambda: calls.append("heif"))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    read_image(saved(tmp_path, Image.fromarray(RGB)))
    assert calls == []
    saved(tmp_path, Image.fromarray(RGB)).rename(tmp_path / "x.heic")
    assert torch.equal(read_image(tmp_path / "x.heic"), of_bytes(RGB))
    assert calls == ["heif"]


def test_broken_and_missing_files_say_so(tmp_path: Path) -> None:
    whole = saved(tmp_path, Image.fromarray(RGB)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.png", "text.png"):
        with pytest.raises(ImageError, match=rf"{name} is not a readable picture"):
            read_image(tmp_path / name)
    with pytest.raises(MaskError, match=r"There is no mask .*none\.png"):
        read_mask(tmp_path / "none.png")


def test_pictures_of_a_batch_have_one_size(tmp_path: Path) -> None:
    a, b = Image.fromarray(RGB), Image.fromarray(RGB[:, :16])
    paths = [saved(tmp_path, a, "a.png"), saved(tmp_path, b, "b.png")]
    assert read_images(paths[:1] * 2).shape == (2, H, W, 3)
    with pytest.raises(ImageError, match=r"b\.png is 16x24 px but .*a\.png is 32x24 px"):
        read_images(paths)


def test_folders_are_searched_for_every_kind_of_picture(tmp_path: Path) -> None:
    for name in ("a.TIFF", "b.bmp", "c.png", "d.gif"):
        saved(tmp_path, Image.fromarray(RGB), name)
    (tmp_path / "notes.txt").write_text("not one of them")
    assert photographs(tmp_path).shape == (4, H, W, 3)
    assert {".heic", ".avif", ".jpg", ".webp"} <= picture_endings()
