"""What CLiC learns from: views of the pictures, masks, blank regions, and what a step draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from conceptloom.errors import MaskError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import OFFICIAL_ROI_PROMPTS, Form
from conceptloom.methods.clic.dataset import SceneViews, ViewSample
from conceptloom.methods.clic.views import views_of
from conceptloom.scenes.scene import make_scene
from conceptloom.training.loop import step_generator

from .clic_cases import SIDE, STILL, config, plane, scene


def test_views_are_brighter_and_darker_and_the_same_for_the_same_seed() -> None:
    picture = scene().images[0]
    settings = config(views=24, brightness=0.5)
    views = views_of(picture, settings, 0, False)
    again = views_of(picture, settings, 0, False)
    assert all(torch.equal(a.image, b.image) for a, b in zip(views, again, strict=True))
    dark = picture.image < 0.5  # above, a brighter copy is cut at white
    factors = [float((v.image[dark] / picture.image[dark]).median()) for v in views]
    assert 0.5 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.5
    other = views_of(picture, replace(settings, seed=1), 0, False)
    assert not torch.equal(other[0].image, views[0].image)
    (plain,) = views_of(picture, config(**STILL), 0, False)
    assert torch.equal(plain.image, picture.image)


def test_mirrored_views_mirror_picture_and_masks_together() -> None:
    picture = scene().images[0]
    (view,) = views_of(picture, config(brightness=0.0), 0, True)
    assert torch.equal(view.image, picture.image.flip(1))
    assert torch.equal(view.masks["mark"], picture.masks["mark"].flip(1))


def test_larger_and_smaller_copies_say_so_and_take_their_masks_along() -> None:
    image = torch.full((SIDE, SIDE, 3), 0.5)
    image[4:20, 4:16] = 1.0
    picture = make_scene([image], {"mark": [plane(4, 20, 4, 16)]}, {}).images[0]
    views = views_of(picture, config(views=60, brightness=0.0, random_scale=True), 0, False)
    prefixes = Counter(view.prefix for view in views)
    assert set(prefixes) == {"", "a far away ", "very small ", "zoomed in ", "close up "}
    assert prefixes["zoomed in "] + prefixes["close up "] > 30  # two of three
    for view in views:
        mask = view.masks["mark"]
        assert torch.allclose(view.image[..., 0], 0.5 + 0.5 * mask, atol=1e-5)
        if view.prefix in ("a far away ", "very small "):
            assert float(view.valid.mean()) < 0.6**2 * 1.1
            assert (view.image[view.valid == 0] == 0.5).all()


def test_latents_that_a_smaller_copy_covers_in_part_do_not_count(host: DiffusersHost) -> None:
    asked = config(views=40, brightness=0.0, flip=0.0, random_scale=True)
    picture = scene().images[0]
    material = SceneViews(host, scene(), asked)
    views = views_of(picture, asked, 0, False)
    for number, view in enumerate(views):
        kept = F.avg_pool2d(view.valid[None, None], host.pixels_per_latent)[0, 0] > 0.999
        sample = ViewSample(0, False, number, "mark", "", "")
        assert torch.equal(material.valid([sample])[0, 0], kept.float())


def test_views_that_lose_the_region_are_reported(host: DiffusersHost) -> None:
    corner = make_scene([torch.rand(SIDE, SIDE, 3)], {"mark": [plane(0, 1, 0, 1)]}, {})
    picture, asked = corner.images[0], config(random_scale=True, views=1, brightness=0.0)
    lost = next(
        replace(asked, seed=seed)
        for seed in range(40)
        if not views_of(picture, replace(asked, seed=seed), 0, False)[0].masks["mark"].any()
    )
    with pytest.raises(MaskError, match="turn random_scale off"):
        SceneViews(host, corner, lost)


def test_latents_masks_and_blank_regions(host: DiffusersHost) -> None:
    settings = config(**STILL, roi_form=Form.OFFICIAL, context_form=Form.OFFICIAL)
    given = scene()
    material = SceneViews(host, given, settings)
    sample = material.draw(step_generator(0, 0))
    picture = given.images[0]
    assert torch.equal(material.latents([sample]), host.encode_image(picture.image[None]))
    mask = picture.masks["mark"][..., None]
    blank = host.encode_image((picture.image * mask + 0.5 * (1 - mask))[None])
    assert torch.equal(material.regions([sample]), blank)
    assert material.masks([sample])[0, 0].sum() == 8 * 6  # 16 x 12 px, 2 px a latent
    valid = material.valid([sample])[0, 0]
    assert (valid[1:-1, 1:-1].min(), valid.sum()) == (1, 14 * 14)  # the official border
    paper = SceneViews(host, given, config(**STILL))
    assert paper.valid([sample]).min() == 1


def test_every_picture_concept_and_prompt_is_drawn(host: DiffusersHost) -> None:
    given = make_scene(
        [torch.rand(SIDE, SIDE, 3) for _ in range(2)],
        {"a": [plane(4, 20, 4, 16), None], "b": [plane(4, 20, 20, 30), plane(8, 24, 8, 24)]},
        {},
    )
    material = SceneViews(host, given, config(roi_prompts=OFFICIAL_ROI_PROMPTS))
    generator = torch.Generator().manual_seed(0)
    samples = [material.draw(generator) for _ in range(400)]
    seen = Counter((s.image, s.name) for s in samples)
    assert set(seen) == {(0, "a"), (0, "b"), (1, "b")}
    assert abs(seen[1, "b"] - 200) < 45
    assert abs(sum(s.mirrored for s in samples) - 200) < 45
    assert {s.view for s in samples} == {0, 1}
    assert {s.prompt for s in samples} == {"a chair with <a> style", "a chair with <b> style"}
    told = {s.roi_prompt for s in samples if s.name == "a"}
    assert told == {text.replace("{concept}", "<a>") for text in OFFICIAL_ROI_PROMPTS}
