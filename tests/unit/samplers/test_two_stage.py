"""Two-stage generation is the base model until t_s, and the concept from then on."""

from __future__ import annotations

import pytest
import torch

from conceptloom.errors import ConfigError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.samplers.ddim import sample_ddim
from conceptloom.samplers.two_stage import TwoStageConfig, sample_two_stage

from ..tiny_models import assert_unchanged, noise, snapshot, tiny_host

WEIGHT = "unet.middle_block.1.transformer_blocks.0.attn2.to_v.weight"


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def drawn(host: DiffusersHost, base_steps: int) -> torch.Tensor:
    texts = ("a photo of a cup", "a photo of a cup, with <x> style", "")
    vectors = {"x": {"clip_l": noise(1, 16)}}
    base, concept, negative = (host.encode_prompt(text, vectors) for text in texts)
    config = TwoStageConfig(base_steps=base_steps, steps=4, cfg=2.0)
    edits = {WEIGHT: lambda weight: weight * 30}
    return sample_two_stage(host, base, concept, negative, noise(1, 4, 8, 8), edits, config)


def test_no_base_step_is_the_concept_alone_and_all_of_them_the_base_model(host: DiffusersHost):
    vectors = {"x": {"clip_l": noise(1, 16)}}
    negative = host.encode_prompt("")
    base = host.encode_prompt("a photo of a cup")
    concept = host.encode_prompt("a photo of a cup, with <x> style", vectors)
    plain = sample_ddim(host, [base], negative, noise(1, 4, 8, 8), steps=4, cfg=2.0)
    assert torch.equal(drawn(host, 4), plain)
    with host.edited({WEIGHT: lambda weight: weight * 30}, trainable=False):
        tuned = sample_ddim(host, [concept], negative, noise(1, 4, 8, 8), steps=4, cfg=2.0)
    assert torch.equal(drawn(host, 0), tuned)


def test_between_them_it_is_neither(host: DiffusersHost):
    before = snapshot(host)
    found = [drawn(host, steps) for steps in range(5)]
    assert_unchanged(before, host)
    for i in range(4):
        assert not torch.allclose(found[i], found[i + 1], atol=1e-5)


def test_more_base_steps_than_steps_are_told():
    with pytest.raises(ConfigError, match="base_steps is 9; it must be at most the 5 steps"):
        TwoStageConfig(base_steps=9, steps=5)
