"""Reading where words look in a picture."""

from __future__ import annotations

import pytest
import torch

from conceptloom.attention.capture import read_attention, word_positions
from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.errors import ConfigError, PromptError
from conceptloom.host.diffusers import DiffusersHost

from ..tiny_models import assert_unchanged, noise, snapshot, tiny_host


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def test_words_phrases_and_handles_are_found(host: DiffusersHost) -> None:
    vectors = {"mug": {"clip_l": noise(2, 16)}}
    prompt = host.encode_prompt("a red cat and a <mug>, a red dog", vectors)
    assert word_positions(host, prompt, "cat") == (3,)
    assert word_positions(host, prompt, "red") == (2, 10)
    assert word_positions(host, prompt, "red cat") == (2, 3)
    assert word_positions(host, prompt, " <mug> ") == (6, 7)


@pytest.mark.parametrize("word", ["cow", "<cup>", "", "red dog", "mug"])
def test_words_that_are_not_there_are_reported(host: DiffusersHost, word: str) -> None:
    prompt = host.encode_prompt("a red cat and a <mug>", {"mug": {"clip_l": noise(1, 16)}})
    with pytest.raises(PromptError, match=rf"does not contain '{word}'; add it"):
        word_positions(host, prompt, word)


def test_maps_are_the_mean_over_the_timesteps(host: DiffusersHost) -> None:
    before = snapshot(host)
    prompt, latent = host.encode_prompt("a red cat"), noise(1, 4, 8, 12, seed=3)
    found = read_attention(host, latent, prompt, ["cat", "red"], timesteps=(100, 500), downsample=2)
    assert {word: tuple(heat.shape) for word, heat in found.items()} == {
        "cat": (4, 6),
        "red": (4, 6),
    }
    generator, total = torch.Generator().manual_seed(0), torch.zeros(4, 6)
    for timestep in (100, 500):
        capture = AttentionCapture(host.sites.at_downsample(2))
        at = torch.tensor([timestep])
        noisy = host.noise_path.add_noise(
            latent, torch.randn(latent.shape, generator=generator), at
        )
        host.predict(noisy, at, [prompt], [capture])
        total += capture.maps([TokenQuery(0, (3,), 77)])[0].detach() / 2
    assert torch.allclose(found["cat"], total, atol=1e-6)
    assert_unchanged(before, host)


def test_reading_repeats_and_asks_for_no_gradient(host: DiffusersHost) -> None:
    prompt, latent = host.encode_prompt("a cat"), noise(1, 4, 8, 8)
    one, same = (read_attention(host, latent, prompt, ["cat"])["cat"] for _ in range(2))
    assert torch.equal(one, same)
    assert not one.requires_grad
    other = read_attention(host, latent, prompt, ["cat"], seed=1)["cat"]
    assert not torch.equal(one, other)


@pytest.mark.parametrize("timesteps", [(), (1000,), (-1, 5)])
def test_bad_timesteps_are_reported(host: DiffusersHost, timesteps: tuple[int, ...]) -> None:
    prompt = host.encode_prompt("a cat")
    with pytest.raises(ConfigError, match=r"timesteps is .*between 0 and 999"):
        read_attention(host, noise(1, 4, 8, 8), prompt, ["cat"], timesteps=timesteps)


def test_reading_stops_within_one_pass(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cancelled(Exception):
        pass

    told: list[tuple[int, int]] = []

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append((step, total))
        if step == 1:
            raise Cancelled

    passes, predict = list[int](), DiffusersHost.predict
    monkeypatch.setattr(
        DiffusersHost, "predict", lambda *a, **k: (passes.append(1), predict(*a, **k))[1]
    )
    with pytest.raises(Cancelled):
        read_attention(
            host, noise(1, 4, 8, 8), host.encode_prompt("a cat"), ["cat"], progress=progress
        )
    assert told == [(0, 3), (1, 3)]
    assert len(passes) == 1
