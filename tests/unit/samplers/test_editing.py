"""Edits on a host: plain sampling is a special case, outside stays, each region has its prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conceptloom.errors import ConfigError, MaskError, PromptError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.ddim import sample_ddim
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig

from ..tiny_models import assert_unchanged, noise, snapshot, tiny_host

SOURCE = noise(1, 4, 8, 8, seed=3)
SHORT = EditConfig(steps=4, cfg=2.0, blend=BlendConfig(start=1))
GUIDED = replace(SHORT, guidance=GuidanceConfig(eta=0.1, steps=3))
WEIGHT = "unet.middle_block.1.transformer_blocks.0.attn2.to_v.weight"


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def half(left: bool = True) -> torch.Tensor:
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    return mask if left else 1 - mask


def edit(host: DiffusersHost, config: EditConfig, *regions: tuple, **more) -> torch.Tensor:
    made = [Region(host.encode_prompt(text), mask, tuple(*words)) for text, mask, *words in regions]
    return edit_latents(host, SOURCE, made, host.encode_prompt(""), config, **more)


@pytest.mark.parametrize("config", [SHORT, GUIDED])
def test_outside_of_the_mask_the_latents_are_the_source(host: DiffusersHost, config: EditConfig):
    before = snapshot(host)
    found = edit(host, config, ("a red cat", half(), ["cat"]))
    assert_unchanged(before, host)
    assert torch.equal(found[..., 4:], SOURCE[..., 4:])
    assert not torch.allclose(found[..., :4], SOURCE[..., :4], atol=0.1)


def test_a_full_mask_from_the_first_step_is_plain_ddim(host: DiffusersHost):
    config = replace(SHORT, blend=BlendConfig(start=0, eta=0.0))
    found = edit(host, config, ("a red cat", torch.ones(16, 16)))
    drawn = torch.randn(SOURCE.shape, generator=torch.Generator().manual_seed(0))
    alpha_bar = float(host.noise_path.alpha_bar[751])
    start = alpha_bar**0.5 * SOURCE + (1 - alpha_bar) ** 0.5 * drawn
    prompts = [host.encode_prompt("a red cat")]
    plain = sample_ddim(host, prompts, host.encode_prompt(""), start, steps=4, cfg=2.0)
    # plain DDIM ends at alpha_bar[0] and not at 1
    assert torch.allclose(found, plain / float(host.noise_path.alpha_bar[0]) ** 0.5, atol=0.05)


def test_guidance_of_zero_changes_nothing(host: DiffusersHost):
    plain = edit(host, SHORT, ("a red cat", half(), ["cat"]))
    zero = replace(GUIDED, guidance=GuidanceConfig(eta=0.0))
    assert torch.equal(edit(host, zero, ("a red cat", half(), ["cat"])), plain)
    assert not torch.allclose(edit(host, GUIDED, ("a red cat", half(), ["cat"])), plain, atol=1e-3)


def test_the_target_may_be_ones_everywhere(host: DiffusersHost):
    masked = edit(host, GUIDED, ("a red cat", half(), ["cat"]))
    everywhere = edit(host, replace(GUIDED, target_is_mask=False), ("a red cat", half(), ["cat"]))
    assert not torch.allclose(masked, everywhere, atol=1e-3)


def test_two_regions_are_drawn_at_once_each_by_its_own_prompt(host: DiffusersHost):
    one = edit(host, SHORT, ("a red cat", half()), ("a red cat", half(left=False)))
    same = edit(host, SHORT, ("a red cat", torch.ones(16, 16)))
    assert torch.allclose(one, same, atol=1e-4)
    other = edit(host, SHORT, ("a red cat", half()), ("a blue dog", half(left=False)))
    difference = (other - one).abs().mean(dim=(0, 1, 2))
    assert difference[4:].min() > difference[:4].max()


def test_the_last_steps_are_the_base_models_with_a_plain_prompt(host: DiffusersHost):
    weights = {WEIGHT: lambda weight: weight * 30}
    plain = host.encode_prompt("a cat")
    region = ("a red cat", half())
    free = replace(SHORT, blend=BlendConfig(start=1, free_steps=3))
    base = edit(host, free, ("a cat", half()))
    every = replace(SHORT, harmonise_steps=4)
    assert torch.equal(edit(host, every, region, weights=weights, plain=plain), base)
    tuned = edit(host, SHORT, region, weights=weights, plain=plain)
    last = edit(host, replace(SHORT, harmonise_steps=1), region, weights=weights, plain=plain)
    assert not torch.allclose(last, tuned, atol=1e-4)
    assert not torch.allclose(last, base, atol=1e-4)
    # the first harmonising step is the last one that is held to the picture
    assert not torch.allclose(last[..., 4:], SOURCE[..., 4:], atol=1e-3)


def test_the_model_is_left_as_it_was_when_cancelled_in_the_middle_of_guidance(host: DiffusersHost):
    before = snapshot(host)

    class Stop(Exception):
        pass

    def cancel(step: int, total: int, *_: object) -> None:
        if step == 2:
            raise Stop

    region = ("a red cat", half(), ["cat"])
    with pytest.raises(Stop):
        edit(host, GUIDED, region, weights={WEIGHT: lambda w: w * 2}, progress=cancel)
    assert_unchanged(before, host)


def test_the_seed_decides_and_rows_differ(host: DiffusersHost):
    first, again, other = (
        edit(host, SHORT, ("a red cat", half()), seed=seed, rows=2) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_what_cannot_be_edited_is_reported(host: DiffusersHost):
    with pytest.raises(PromptError, match="does not contain 'dog'"):
        edit(host, GUIDED, ("a red cat", half(), ["dog"]))
    with pytest.raises(MaskError, match="empty"):
        edit(host, SHORT, ("a red cat", torch.zeros(16, 16)))
    with pytest.raises(MaskError, match="aspect"):
        edit(host, SHORT, ("a red cat", torch.ones(16, 32)))
    with pytest.raises(PromptError, match="at least one mask"):
        edit(host, SHORT)
    with pytest.raises(ConfigError, match="start is 15; it must be below the 4 steps"):
        EditConfig(steps=4)
