"""Concepts for the bank: K and V only, the loss where the picture lies."""

from __future__ import annotations

import torch

from conceptloom.methods.concept_weaver import BankConfig, learn_for_bank
from conceptloom.methods.concept_weaver.bank import valid_latents, valid_noise_loss
from conceptloom.training.scene import make_scene

from ..tiny_models import assert_unchanged, snapshot, tiny_host


def test_only_what_is_valid_counts_and_its_area_does_not() -> None:
    predicted, noise = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    predicted[0, :, 0, 0], predicted[0, :, 1, 1] = 3.0, 100.0
    valid = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert valid_noise_loss(predicted, noise, valid, torch.ones(1)).item() == 9.0
    valid[0, 0, 0, 1] = 1
    assert valid_noise_loss(predicted, noise, valid, 2 * torch.ones(1)).item() == 9.0


def test_latents_at_the_canvas_do_not_count() -> None:
    valid = torch.zeros(16, 16)
    valid[:10, :] = 1
    found = valid_latents(valid, torch.zeros(4, 8, 8))[0]
    assert found[1:4, 1:-1].eq(1).all()
    assert found.sum() == 3 * 6


def test_a_concept_of_keys_and_values_is_learned_and_the_model_stays() -> None:
    host = tiny_host()
    image = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    scene = make_scene([image], {"my-cup": [torch.ones(32, 32)]}, {"my-cup": "cup"})
    before = snapshot(host)
    config = BankConfig(steps=2, learning_rate=1e-2, views=2)
    concept = learn_for_bank(host, scene, config)
    assert_unchanged(before, host)
    assert concept.prompts == ("photo of a <my-cup> cup",)
    assert concept.weights
    assert all(
        name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in concept.weights
    )
    again = learn_for_bank(host, scene, config)
    assert torch.equal(again.handles["my-cup"]["clip_l"], concept.handles["my-cup"]["clip_l"])
