"""CLiC's step and transfer beside the transcribed official recipe."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest
import torch
from harness.models import PRESETS, make_host
from harness.report import page
from harness.results import Status
from harness.subject import subject_of
from speed.clic import COMPARISON, OURS, VARIANTS
from speed.official import RATE, OfficialTransfer
from speed.steps import Setting, chosen_groups, result_of

from conceptloom.attention.capture import word_positions
from conceptloom.cli.models import open_host
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig

CLOSE = 1e-5  # of a loss: the two add up in different orders


def options(*given: str) -> argparse.Namespace:
    return subject_of("speed", "clic").parse(given)


def predicts_noise() -> DiffusersHost:
    small = replace(PRESETS["tiny"], channels=(32,) * 4, latent=16)
    return make_host(small, "cpu", torch.float32)


def predicts_velocity() -> DiffusersHost:
    host = open_host()
    assert isinstance(host, DiffusersHost)
    assert host.noise_path.name == "v"
    return host


def losses(name: str, host: DiffusersHost, steps: int) -> list[dict[str, float]]:
    made = VARIANTS[name].make(Setting(host, "cpu", host.dtype))
    return [dict(row) for row in islice(made, steps)]


@pytest.mark.parametrize("make", [predicts_noise, predicts_velocity])
def test_official_and_ours_agree_step_after_step(make: Callable[[], DiffusersHost]) -> None:
    """On the same draws, term by term, while both learn."""
    theirs, ours = losses("official", make(), 3), losses(OURS, make(), 3)
    assert list(theirs[0]) == ["context", "attention", "roi"]
    for expected, found in zip(theirs, ours, strict=True):
        assert found == pytest.approx(expected, rel=CLOSE)


def test_another_form_would_be_noticed() -> None:
    (theirs,), (ours,) = (losses(name, predicts_noise(), 1) for name in ("official", "paper-form"))
    assert ours["attention"] / 2 == pytest.approx(theirs["attention"], rel=CLOSE)
    assert ours["context"] / 2 != pytest.approx(theirs["context"], rel=0.1)


def test_content_learns_from_the_whole_picture_alone() -> None:
    (row,) = losses("content", predicts_noise(), 1)
    assert list(row) == ["context"]


@pytest.mark.parametrize("name", ["official", "plain"])
def test_what_learns_is_float32_where_the_model_is_not(name: str) -> None:
    host = predicts_noise()
    for network in (host.unet, host.vae, *(e.model for e in host._encoders)):
        network.to(torch.bfloat16)
    (row,) = losses(name, host, 1)
    assert all(0 < value < 10 for value in row.values())
    learns = [p for p in host.unet.parameters() if p.requires_grad]
    assert {p.dtype for p in learns} == {torch.float32}
    assert host.dtype is torch.bfloat16


def test_only_the_new_row_of_the_token_table_learns() -> None:
    host = predicts_noise()
    made = VARIANTS["official"].make(Setting(host, "cpu", torch.float32))
    old = host._encoders[0].model.get_input_embeddings().weight.detach().clone()
    next(made)
    new = host._encoders[0].model.get_input_embeddings().weight.detach()
    decayed = old * (1 - 1e-6)  # AdamW's, in rows without a gradient too
    assert torch.allclose(new[:-1], decayed, rtol=1e-7, atol=0)
    assert float((new[-1] - new[10]).abs().min()) > 5e-6  # "mug", where it began


def test_variants_that_are_left_out_leave_their_turns_out_too() -> None:
    def groups(*given: str) -> list[list[str]]:
        return chosen_groups(COMPARISON, options(*given))

    assert groups() == [["official", OURS], ["plain", "content", OURS, "paper-form"]]
    assert groups("--variants", "plain", OURS) == [["plain", OURS]]
    assert groups("--variants", OURS) == [[OURS]]
    assert groups("--preset", "sdxl")[0][0] == "plain"


def test_the_page_tells_ratios_memory_and_agreement() -> None:
    def rows(seconds: float, peak: int, loss: float) -> list[dict[str, object]]:
        row = {"seconds": seconds, "cpu": seconds, "peak": peak << 20, "model": "A model"}
        return [{**row, "losses": {"context": loss}}] * 2

    pair = {"official": rows(6.0, 100, 1.0), OURS: rows(2.0, 20, 1.001)}
    others = {"plain": rows(1.0, 10, 3.0), OURS: rows(2.0, 20, 1.001)}
    result = result_of([pair, others], COMPARISON, options())
    told = page(result)
    (claim,) = result.claims
    assert (claim.found, claim.status) == (3.0, Status.MET)
    assert "official recipe, transcribed | 6.00 | 6.00 | 6.00 | 6.00 |  |  | 100 | 1.00 |" in told
    assert "ours, the official form | 2.00 | 2.00 | 2.00 | 2.00 | 3.00 | 3.00 | 20 | 0.20 |" in told
    assert "is 0.200 of the official recipe's" in told
    assert "agrees to 1e-03 of its value, over 2 steps" in told


def test_a_guided_transfer_the_official_way_draws_what_ours_draws() -> None:
    host = predicts_noise()
    source = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(128, 128)
    mask[32:96, 32:96] = 1
    with torch.no_grad():
        prompt, negative = host.encode_prompt("a photo of a mug"), host.encode_prompt("")
    region, steps = Region(prompt, mask, ("mug",)), 3
    processors = host.unet.attn_processors

    def ours(eta: float) -> torch.Tensor:
        config = EditConfig(
            steps=steps,
            blend=BlendConfig(start=0),
            guidance=GuidanceConfig(eta=eta, steps=steps),
            target_is_mask=False,
        )
        return edit_latents(host, source, [region], negative, config)

    (token,) = word_positions(host, prompt, "mug")
    grid = torch.nn.functional.interpolate(mask[None, None], (16, 16))
    theirs = OfficialTransfer(host, prompt, negative, token, 7.5).run(source, grid, steps)
    apart, moved = (theirs - ours(RATE)).abs().mean(), (ours(RATE) - ours(0.0)).abs().mean()
    assert float(apart) < 0.01 * float(moved)
    assert host.unet.attn_processors == processors
