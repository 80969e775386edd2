"""Guidance by its equation: what it moves, how far, and what it leaves."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from conceptloom.attention.capture import word_positions
from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.errors import ConfigError, PromptError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Prompt
from conceptloom.samplers.guidance import (
    AttentionTarget,
    GuidanceConfig,
    Rule,
    attention_distance,
    guided_sites,
    latent_gradient,
    moved,
)

from ..tiny_models import FAMILIES, assert_unchanged, noise, snapshot, tiny_host

TEXT, WORD, AT = "a red cat", "cat", 500


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def attention_target(
    host: DiffusersHost, prompt: Prompt, target: torch.Tensor | None = None
) -> AttentionTarget:
    return AttentionTarget(word_positions(host, prompt, WORD), len(prompt.tokens), target)


def gradient_of(
    host: DiffusersHost,
    latent: torch.Tensor,
    attention_targets: list[AttentionTarget],
    prompt: Prompt,
    level: int = 0,
) -> torch.Tensor:
    at = torch.full((latent.shape[0],), AT)

    def forward(moving: torch.Tensor, capture: AttentionCapture) -> object:
        return host.predict(moving, at, [prompt], [capture])

    with host.edited({}, trainable=True):
        return latent_gradient(forward, latent, attention_targets, guided_sites(host.sites, level))


def distance_at(
    host: DiffusersHost, latent: torch.Tensor, wanted: AttentionTarget, prompt: Prompt
) -> float:
    capture = AttentionCapture(guided_sites(host.sites))
    with torch.no_grad():
        host.predict(latent, torch.full((latent.shape[0],), AT), [prompt], [capture])
        size = (latent.shape[-2], latent.shape[-1])
        return float(attention_distance(capture, [wanted], latent.shape[0], size))


def attention_at(
    host: DiffusersHost, latent: torch.Tensor, wanted: AttentionTarget, prompt: Prompt
) -> float:
    capture = AttentionCapture(guided_sites(host.sites))
    with torch.no_grad():
        host.predict(latent, torch.tensor([AT]), [prompt], [capture])
        query = TokenQuery(0, wanted.positions, wanted.length)
        return float(capture.maps([query], (latent.shape[-2], latent.shape[-1])).mean())


def test_the_distance_by_hand():
    class Fixed(AttentionCapture):
        def maps(self, queries, size=None):
            return torch.tensor([[[0.5, 0.0]], [[1.0, 1.0]]])

    attention_targets = [
        AttentionTarget((1,), 4),
        AttentionTarget((2,), 4, torch.tensor([[1.0, 0.0]])),
    ]
    # ones: 0.25 + 1; mask: 0 + 1
    assert attention_distance(Fixed([]), attention_targets, 1, (1, 2)).item() == pytest.approx(2.25)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_finite_differences(family: str):
    host = tiny_host(family)
    prompt, latent = host.encode_prompt(TEXT), noise(1, 4, 8, 8)
    wanted = attention_target(host, prompt)
    gradient = gradient_of(host, latent, [wanted], prompt)
    direction = gradient / gradient.norm()
    step = 0.05
    ahead, behind = (
        distance_at(host, latent + s * step * direction, wanted, prompt) for s in (1, -1)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize("rule", list(Rule))
def test_above_zero_words_are_pulled_in_and_below_they_are_driven_out(
    host: DiffusersHost, rule: Rule
):
    prompt = host.encode_prompt(TEXT)
    wanted = attention_target(host, prompt)
    reached = []
    for sign in (-1, 0, 1):
        latent = noise(1, 4, 8, 8)
        config = GuidanceConfig(eta=sign * (0.02 if rule is Rule.SIGN else 3.0), rule=rule)
        for _ in range(5):
            latent = moved(latent, gradient_of(host, latent, [wanted], prompt), config)
        reached.append(attention_at(host, latent, wanted, prompt))
    assert reached == sorted(reached)
    assert len(set(reached)) == 3


def test_a_mask_as_target_leaves_what_lies_outside_to_shrink(host: DiffusersHost):
    prompt, latent = host.encode_prompt(TEXT), noise(1, 4, 8, 8)
    target = torch.zeros(16, 16)
    target[:, :8] = 1
    masked, everywhere = (
        gradient_of(host, latent, [attention_target(host, prompt, t)], prompt)
        for t in (target, None)
    )
    assert not torch.allclose(masked, everywhere)


def test_rows_are_guided_each_by_itself(host: DiffusersHost):
    prompt, latent = host.encode_prompt(TEXT), noise(2, 4, 8, 8)
    wanted = attention_target(host, prompt)
    together = gradient_of(host, latent, [wanted], prompt)
    alone = gradient_of(host, latent[1:], [wanted], prompt)
    assert torch.allclose(together[1:], alone, atol=1e-6)


def test_steps_by_hand():
    latent, gradient = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, -0.001, 0.0])
    by_sign = moved(latent, gradient, GuidanceConfig(eta=0.5))
    assert by_sign.tolist() == [0.5, 1.5, 1.0]
    config = GuidanceConfig(eta=0.5, rule=Rule.GRADIENT)
    assert moved(latent, gradient, config).tolist() == pytest.approx([0.0, 1.0005, 1.0])
    assert moved(latent.half(), gradient, config).dtype is torch.float16


def test_the_pass_ends_behind_the_last_map(host: DiffusersHost):
    ran: list[str] = []
    last = host.unet.conv_out.register_forward_hook(lambda *_: ran.append("conv_out"))
    fine = host.unet.up_blocks[-1].register_forward_hook(lambda *_: ran.append("last up block"))
    try:
        prompt = host.encode_prompt(TEXT)
        coarsest = max(site.downsample for site in guided_sites(host.sites))
        gradient_of(host, noise(1, 4, 8, 8), [attention_target(host, prompt)], prompt, coarsest)
    finally:
        last.remove()
        fine.remove()
    assert ran == []


def test_the_model_is_left_as_it_was(host: DiffusersHost):
    before = snapshot(host)
    prompt = host.encode_prompt(TEXT)
    gradient_of(host, noise(1, 4, 8, 8), [attention_target(host, prompt)], prompt)
    assert_unchanged(before, host)


def test_activations_may_be_computed_again(host: DiffusersHost):
    prompt, latent = host.encode_prompt(TEXT), noise(1, 4, 8, 8)
    plain = gradient_of(host, latent, [attention_target(host, prompt)], prompt)
    host.unet.train()  # diffusers recomputes only then
    try:
        with host.edited({}, trainable=True, checkpointing=True):
            again = gradient_of(host, latent, [attention_target(host, prompt)], prompt)
    finally:
        host.unet.eval()
    assert torch.allclose(plain, again, atol=1e-6)


def test_a_gradient_that_overflows_once_is_taken_at_a_smaller_scale(host: DiffusersHost):
    """A layer that overflows on the way back, as half precision does, until the loss is small."""

    class Narrow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[override]
            too_large = gradient.abs().max() > 1.0
            return torch.full_like(gradient, torch.inf) if too_large else gradient

    prompt, latent = host.encode_prompt(TEXT), noise(1, 4, 8, 8)
    plain = gradient_of(host, latent, [attention_target(host, prompt)], prompt)

    def forward(moving: torch.Tensor, capture: AttentionCapture) -> object:
        return host.predict(Narrow.apply(moving), torch.tensor([AT]), [prompt], [capture])

    with host.edited({}, trainable=True):
        sites = guided_sites(host.sites)
        found = latent_gradient(forward, latent, [attention_target(host, prompt)], sites)
    assert torch.allclose(found, plain, atol=1e-6)


def test_a_gradient_that_is_no_number_is_left_out_and_reported(
    host: DiffusersHost, caplog: pytest.LogCaptureFixture
):
    prompt, latent = host.encode_prompt(TEXT), noise(1, 4, 8, 8)

    def forward(moving: torch.Tensor, capture: AttentionCapture) -> object:
        return host.predict(moving * torch.nan, torch.tensor([AT]), [prompt], [capture])

    with caplog.at_level(logging.WARNING), host.edited({}, trainable=True):
        sites = guided_sites(host.sites)
        found = latent_gradient(forward, latent, [attention_target(host, prompt)], sites)
    assert not found.any()
    assert "overflows in this precision" in caplog.text


def test_settings():
    config = GuidanceConfig()
    assert config.wants(29)
    assert not config.wants(30)
    assert not replace(config, eta=0.0).wants(0)
    for wrong in ({"eta": float("nan")}, {"steps": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(config, **wrong)


def test_words_and_levels_that_are_not_there_are_reported(host: DiffusersHost):
    with pytest.raises(PromptError, match="does not contain 'dog'"):
        word_positions(host, host.encode_prompt(TEXT), "dog")
    with pytest.raises(ConfigError, match="level is 16"):
        guided_sites(host.sites, 16)
