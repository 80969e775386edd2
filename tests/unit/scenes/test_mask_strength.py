"""Masks on another scale come to full strength, and labels of several classes ask which."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from conceptloom.attention.regions import region_masks
from conceptloom.errors import MaskError
from conceptloom.samplers.masks import picture_masks
from conceptloom.scenes.mask_strength import class_shares, full_strength, label_shares
from conceptloom.scenes.scene import make_scene, resized_scene, with_background
from conceptloom.scenes.soft_masks import SoftMaskConfig, shaped_mask
from conceptloom.viz.colors import ALARM
from conceptloom.viz.scene_preview import scene_preview

H, W = 48, 64
Y, X = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
RADIUS = ((X - 28.0) ** 2 + (Y - 22.0) ** 2).sqrt()
DISC = (RADIUS < 15).float()
SOFT = (1 - RADIUS / 20).clamp(0, 1)
PICTURE = torch.full((H, W, 3), 0.5)


def in_bytes(mask: Tensor) -> Tensor:
    return (mask * 255).round() / 255


FAINT_MASKS = {
    "0 and 1 of 255": (DISC / 255, DISC),
    "class 1 of Pascal VOC, as grey": (DISC * 38 / 255, DISC),
    "class 1 of Pascal VOC, its red": (DISC * 128 / 255, DISC),
    "pure red as grey": (DISC * 76 / 255, DISC),
    "a soft mask at a fifth": (SOFT * 0.2, SOFT / SOFT.max()),
}


@pytest.mark.parametrize("kind", FAINT_MASKS)
def test_faint_masks_come_to_full_strength_and_it_is_said(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    given, right = FAINT_MASKS[kind]
    scene = make_scene([PICTURE], {"mug": [given]}, {})
    torch.testing.assert_close(scene.images[0].masks["mug"], right, atol=1e-6, rtol=0)
    (remark,) = scene.remarks
    assert remark.startswith("The mask of <mug> reaches only 0.")
    assert "is stretched to 1" in remark
    assert remark in caplog.text


def test_a_faint_soft_mask_of_8_bits_is_no_label_picture() -> None:
    faint = in_bytes(SOFT * 0.2)
    assert class_shares(faint) == {}
    wide = in_bytes((X / W * 0.1).expand(H, W))  # bands several pixels wide
    assert class_shares(wide) == {}


@pytest.mark.parametrize("mask", [DISC, SOFT, DISC * 0.75, in_bytes(SOFT), torch.zeros(H, W)])
def test_masks_that_are_strong_or_empty_stay_as_they_are(mask: Tensor) -> None:
    strong, remark = full_strength(mask, "it")
    assert strong is mask or torch.equal(strong, mask)
    assert remark == ""


def test_noise_below_a_step_of_8_bits_is_nothing() -> None:
    with pytest.raises(MaskError, match="is empty: nothing is painted"):
        make_scene([PICTURE], {"mug": [DISC * 1e-4]}, {})


def labels() -> Tensor:
    """Class 1 in the disc, 3 in a stripe, 0 elsewhere."""
    return torch.where((X > 48) & (X < 60), 3.0, DISC)


def test_a_label_picture_asks_which_class() -> None:
    assert set(class_shares(labels() / 255)) == {1, 3}
    with pytest.raises(MaskError) as caught:
        make_scene([PICTURE], {"mug": [labels() / 255]}, {})
    told = str(caught.value)
    assert "The mask of <mug> is a label picture with 2 classes: 1 (" in told
    assert "FILE#1" in told
    assert f"color {0x010101} (class 1)" in told


def test_the_shares_are_those_of_the_picture() -> None:
    shares = label_shares(labels().long())
    assert shares[1] == pytest.approx(float(DISC.mean()))
    assert shares[3] == pytest.approx(11 / 64)


def test_many_classes_name_the_largest_and_a_photograph_has_none() -> None:
    stripes = ((X // 8) * 3).long()  # 0, 3, ..., 21
    told = ""
    with pytest.raises(MaskError) as caught:
        full_strength(stripes.float() / 255, "it")
    told = str(caught.value)
    assert "7 classes" in told
    assert "and 1 more" in told
    noise = torch.randint(0, 90, (H, W), generator=torch.Generator().manual_seed(0))
    assert label_shares(noise) == {}


def test_edges_that_were_smoothed_make_no_classes() -> None:
    smooth = in_bytes((15.5 - RADIUS).clamp(0, 1) * 26 / 255)
    strong, remark = full_strength(smooth, "it")
    assert float(strong.max()) == 1
    assert remark


def test_remarks_survive_background_and_resizing_and_are_red_in_the_preview() -> None:
    strong = make_scene([PICTURE], {"mug": [DISC]}, {})
    faint = make_scene([PICTURE], {"mug": [DISC / 255]}, {})
    more = resized_scene(with_background(faint, "room"), 0, 16)
    assert len(more.remarks) == 1
    alarm = torch.tensor(ALARM) / 255

    def reds(scene: object) -> int:
        picture = scene_preview(scene)  # type: ignore[arg-type]
        return int(((picture - alarm).abs().amax(dim=-1) < 0.02).sum())

    assert reds(strong) == 0
    assert reds(faint) > 10


def test_of_several_pictures_the_faint_one_is_named() -> None:
    scene = make_scene([PICTURE, PICTURE], {"mug": [DISC, DISC / 255]}, {})
    assert scene.remarks[0].startswith("The mask of <mug> in picture 2 reaches only 0.004 (1 of")


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64)])
def test_an_unpainted_mask_of_load_image_is_called_so(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match=r"nothing is painted\. Load Image outputs .* 64x64 px"):
        make_scene([PICTURE], {"mug": [torch.zeros(shape)]}, {})
    with pytest.raises(MaskError, match=r"nothing is painted\. Load Image"):
        picture_masks(torch.zeros(shape), (H, W))
    with pytest.raises(MaskError, match=r"nothing is painted\. Load Image"):
        region_masks([torch.zeros(shape)], ["cup"])
    with pytest.raises(MaskError, match=r"nothing is painted\. Load Image"):
        shaped_mask(torch.zeros(shape), SoftMaskConfig())


def test_one_of_two_masks_unpainted_is_named() -> None:
    with pytest.raises(MaskError, match="mask of <cat> is empty in every picture: nothing is"):
        make_scene([PICTURE], {"mug": [DISC], "cat": [torch.zeros(64, 64)]}, {})


def test_edits_stretch_what_would_change_nothing_and_keep_grey(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert torch.equal(picture_masks(DISC / 255, (H, W))[0], DISC)
    assert "The mask reaches only 0.004" in caplog.text
    assert torch.equal(picture_masks(DISC * 0.5, (H, W))[0], DISC * 0.5)
    with pytest.raises(MaskError, match="Mask 2 of 2 is a label picture with 2 classes"):
        picture_masks(torch.stack([DISC, labels() / 255]), (H, W))


def test_regions_stretch_them_too(caplog: pytest.LogCaptureFixture) -> None:
    masks = region_masks([DISC / 255], ["<cup>"])
    assert torch.equal(masks[0], DISC)
    assert "The mask of <cup> reaches only" in caplog.text


def test_the_soft_mask_builder_stretches_before_anything_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = shaped_mask(torch.stack([DISC, DISC / 255]), SoftMaskConfig())
    assert torch.equal(plain[0], plain[1])
    assert "Mask 2 reaches only" in caplog.text
    inverted = shaped_mask(DISC / 255, SoftMaskConfig(invert=True))
    assert torch.equal(inverted[0], 1 - DISC)


def test_a_threshold_decides_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cut = shaped_mask(labels() / 255, SoftMaskConfig(threshold=2 / 255))
    assert torch.equal(cut[0], (labels() == 3).float())
    assert not caplog.records
