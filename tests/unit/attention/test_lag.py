"""The LAG edit in a real UNet of every family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.attention.lag import LagEdit
from conceptloom.attention.lag_config import LagConfig, Unconditional
from conceptloom.attention.lag_plan import LagConcept
from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.errors import ConfigError, MaskError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Prompt, WaitsForPrompt

from ..tiny_models import FAMILIES, assert_unchanged, noise, snapshot, tiny_host

CAT, DOG = "a photo of <my> cat here", "a <toy> dog"
T = torch.tensor([400])


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> DiffusersHost:
    return tiny_host(request.param)


@pytest.fixture(scope="module")
def sd1() -> DiffusersHost:
    return tiny_host("sd1")


def vectors(host: DiffusersHost, seed: int) -> dict[str, Tensor]:
    return {e: noise(2, width, seed=seed + i) for i, (e, width) in enumerate(host.encoders.items())}


def prompt(host: DiffusersHost, text: str) -> Prompt:
    return host.encode_prompt(text, {"my": vectors(host, 1), "toy": vectors(host, 5)})


def concept(
    host: DiffusersHost, handle: str = "my", word: str = "cat", mask: Any = None, **config: Any
) -> LagConcept:
    seed = 10 if handle == "my" else 20
    return LagConcept(
        handle=handle,
        class_tokens=host.tokenize(word),
        residuals={
            f"unet.{s.name}.proj_out.weight": (
                noise(s.width, 3, seed=seed),
                noise(3, s.width, seed=seed + 1),
            )
            for s in host.sites.transformers
        },
        config=LagConfig(**config),
        mask=mask,
    )


def merged(host: DiffusersHost, *concepts: LagConcept) -> Any:
    """The host with the residuals in its weights."""

    def added(name: str) -> Any:
        delta = sum((up @ down for up, down in (c.residuals[name] for c in concepts)))
        return lambda weight: weight + delta.view_as(weight)

    return host.edited({name: added(name) for name in concepts[0].residuals}, trainable=False)


LATENT = noise(1, 4, 12, 16, seed=3)


@torch.no_grad()
def predicted(host: DiffusersHost, *concepts: LagConcept, text: str = CAT, **how: Any) -> Tensor:
    edits = [LagEdit(concepts, **how)] if concepts else []
    return host.predict(LATENT, T, [prompt(host, text)], edits)


def test_no_strength_and_no_residual_are_the_base_model_bit_for_bit(host: DiffusersHost) -> None:
    plain, before = predicted(host), snapshot(host)
    assert torch.equal(predicted(host, concept(host, strength=0.0)), plain)
    learned = concept(host)
    nothing = {name: (up * 0, down) for name, (up, down) in learned.residuals.items()}
    assert torch.equal(predicted(host, replace(learned, residuals=nothing)), plain)
    assert not torch.allclose(predicted(host, learned), plain, atol=1e-3)
    assert_unchanged(before, host)


def test_a_mask_of_ones_equals_the_merged_weights(host: DiffusersHost) -> None:
    with merged(host, concept(host)):
        expected = predicted(host)
    for config in ({"quantile": 0.0}, {"localised": False}):
        found = predicted(host, concept(host, **config))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(predicted(host, concept(host, quantile=1.0)), predicted(host))


def test_every_block_has_the_mask_of_its_own_attention(host: DiffusersHost) -> None:
    seen: dict[str, Tensor] = {}
    capture = AttentionCapture(host.sites.transformers[:1])
    learned = concept(host)
    edit = LagEdit([learned], on_masks=lambda site, masks, info: seen.setdefault(site.name, masks))
    encoded = prompt(host, CAT)
    with torch.no_grad():
        host.predict(LATENT, T, [encoded], [edit, capture])
    assert list(seen) == [site.name for site in host.sites.transformers]
    for site in host.sites.transformers:
        mask = seen[site.name]
        grid = (12 // site.downsample, 16 // site.downsample)
        assert mask.shape == (1, 1, *grid)
        assert abs(float(mask.mean()) - 0.5) <= 1 / (grid[0] * grid[1])
    # The first block sees the base model's features, so its map can be read from outside.
    places = learned.positions(encoded.tokens)
    first = host.sites.transformers[0]
    level = first.downsample
    [map_] = capture.maps([TokenQuery(0, places, len(encoded.tokens))])
    expected = (map_ > map_.flatten().median()).float()
    assert torch.equal(seen[first.name][0, 0], expected)
    assert expected.shape == (12 // level, 16 // level)


def test_the_merge_is_that_of_the_paper(sd1: DiffusersHost) -> None:
    """f^ = (1 - M) W x + M W' x at the last block, whose output nothing mixes any more."""
    site = sd1.sites.transformers[0]
    learned = concept(sd1)
    name = f"unet.{site.name}.proj_out.weight"
    only = replace(learned, residuals={name: learned.residuals[name]})
    mask: list[Tensor] = []
    edit = LagEdit([only], on_masks=lambda _, masks, __: mask.append(masks[0]))
    outputs: list[Tensor] = []
    hook = site.module.proj_out.register_forward_hook(lambda *call: outputs.append(call[-1]))
    try:
        with torch.no_grad():
            sd1.predict(LATENT, T, [prompt(sd1, CAT)])
            with merged(sd1, learned):
                sd1.predict(LATENT, T, [prompt(sd1, CAT)])
    finally:
        hook.remove()
    applied: list[Tensor] = []
    watch = LagEdit([only])
    real = watch.layer
    watch.layer = lambda *call: applied.append(real(*call)) or applied[-1]  # type: ignore
    with torch.no_grad():
        sd1.predict(LATENT, T, [prompt(sd1, CAT)], [watch])
        sd1.predict(LATENT, T, [prompt(sd1, CAT)], [edit])
    base, personal = outputs
    torch.testing.assert_close(applied[0], (1 - mask[0]) * base + mask[0] * personal)


# Prompts


def test_the_class_word_behind_the_handle_counts() -> None:
    made = LagConcept(handle="my", class_tokens=(7, 8), residuals={}, config=LagConfig())
    assert made.positions((0, 7, 8, "my", "my", 7, 8, 5)) == (3, 4, 5, 6)
    assert made.positions(("my", 5, 7, 8, 7, 8)) == (0, 2, 3, 4, 5)
    assert made.positions((7, 8, 5)) == ()
    assert replace(made, class_tokens=()).positions((7, "my")) == (1,)


def test_long_prompts_and_repeated_contexts_give_the_same_picture(sd1: DiffusersHost) -> None:
    long = prompt(sd1, "word " * 100)
    assert len(long.tokens) > len(prompt(sd1, CAT).tokens)
    learned = concept(sd1)
    with torch.no_grad():
        both = sd1.predict(
            LATENT.expand(2, -1, -1, -1),
            T.expand(2),
            [long, prompt(sd1, CAT)],
            [LagEdit([learned])],
            conditional=[False, True],
        )
    torch.testing.assert_close(both[1:], predicted(sd1, learned), rtol=1e-3, atol=1e-4)


def guided(host: DiffusersHost, edit: LagEdit, texts: list[str]) -> Tensor:
    """One pass with the negative rows first."""
    rows = len(texts)
    latent = noise(rows, 4, 12, 16, seed=4)
    prompts = [prompt(host, "")] * rows + [prompt(host, text) for text in texts]
    flags = [False] * rows + [True] * rows
    with torch.no_grad():
        return host.predict(
            torch.cat([latent, latent]), T.expand(2 * rows), prompts, [edit], conditional=flags
        )


def test_a_batch_of_different_prompts_is_its_rows_alone(sd1: DiffusersHost) -> None:
    texts = [CAT, "nothing of the kind", "the cat <my> cat"]
    together = guided(sd1, LagEdit([concept(sd1)]), texts)
    latent = noise(3, 4, 12, 16, seed=4)
    for i, text in enumerate(texts):
        prompts = [prompt(sd1, ""), prompt(sd1, text)]
        edit = LagEdit([concept(sd1)])
        with torch.no_grad():
            alone = sd1.predict(
                latent[[i, i]], T.expand(2), prompts, [edit], conditional=[False, True]
            )
            plain = sd1.predict(latent[[i, i]], T.expand(2), prompts)
        torch.testing.assert_close(together[[i, i + 3]], alone, rtol=1e-3, atol=1e-4)
        assert torch.equal(alone, plain) == ("<my>" not in text)


def test_rows_of_the_negative_prompt(sd1: DiffusersHost) -> None:
    latent = noise(1, 4, 12, 16, seed=4)

    def negative_row(choice: Unconditional) -> Tensor:
        return guided(sd1, LagEdit([concept(sd1, unconditional=choice)]), [CAT])[:1]

    with torch.no_grad():
        base = sd1.predict(latent, T, [prompt(sd1, "")])
        with merged(sd1, concept(sd1)):
            everywhere = sd1.predict(latent, T, [prompt(sd1, "")])
    same, nowhere, whole = (negative_row(choice) for choice in Unconditional)
    torch.testing.assert_close(nowhere, base, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole, everywhere, rtol=1e-4, atol=1e-5)
    for other in (base, everywhere):
        assert not torch.allclose(same, other, atol=1e-3)


def test_negative_rows_in_a_pass_of_their_own(sd1: DiffusersHost) -> None:
    together, edit = guided(sd1, LagEdit([concept(sd1)]), [CAT]), LagEdit([concept(sd1)])
    latent = noise(1, 4, 12, 16, seed=4)

    def alone(text: str, shown: bool, timestep: int = 400) -> Tensor:
        at = torch.tensor([timestep])
        with torch.no_grad():
            return sd1.predict(latent, at, [prompt(sd1, text)], [edit], conditional=[shown])

    with pytest.raises(WaitsForPrompt, match="<my>"):
        alone("", False)
    positive, negative = alone(CAT, True), alone("", False)
    torch.testing.assert_close(torch.cat([negative, positive]), together, rtol=1e-4, atol=1e-5)
    with pytest.raises(WaitsForPrompt):
        alone("", False, timestep=380)  # masks of another noise level are not taken


# Options


def test_user_masks_limit_the_attention_mask_and_stand_alone_without_it(sd1: DiffusersHost) -> None:
    left = torch.zeros(24, 32)
    left[:, :16] = 1
    seen: list[Tensor] = []
    edit = LagEdit([concept(sd1, mask=left)], on_masks=lambda _, masks, __: seen.append(masks))
    with torch.no_grad():
        sd1.predict(LATENT, T, [prompt(sd1, CAT)], [edit])
    assert all(not m[..., m.shape[-1] // 2 :].any() for m in seen)
    assert any(m.any() for m in seen)
    whole = concept(sd1, mask=torch.ones(6, 8), localised=False)
    with merged(sd1, concept(sd1)):
        expected = predicted(sd1)
    torch.testing.assert_close(predicted(sd1, whole), expected, atol=1e-5, rtol=1e-5)
    none = concept(sd1, mask=torch.zeros(6, 8), localised=False)
    assert torch.equal(predicted(sd1, none), predicted(sd1))


def test_a_mask_of_another_aspect_is_refused(sd1: DiffusersHost) -> None:
    with pytest.raises(MaskError, match="48x48 but the picture 16x12 latents"):
        predicted(sd1, concept(sd1, mask=torch.ones(48, 48)))
    predicted(sd1, concept(sd1, mask=torch.ones(97, 128)))  # within 2 %


@pytest.mark.parametrize(
    ("start", "end", "works"),
    [(0.0, 1.0, True), (0.0, 0.5, False), (0.7, 1.0, False), (0.55, 0.65, True)],
)
def test_start_and_end_of_the_schedule(
    sd1: DiffusersHost, start: float, end: float, works: bool
) -> None:
    found = predicted(sd1, concept(sd1, start=start, end=end))  # t = 400: 0.6 of the way
    assert torch.equal(found, predicted(sd1)) != works


def test_strength_scales_the_residual(sd1: DiffusersHost) -> None:
    half = concept(sd1)
    residuals = {name: (0.5 * up, down) for name, (up, down) in half.residuals.items()}
    expected = predicted(sd1, replace(half, residuals=residuals))
    torch.testing.assert_close(predicted(sd1, concept(sd1, strength=0.5)), expected)


@pytest.mark.parametrize(
    "wrong",
    [{"quantile": 1.5}, {"softness": -1.0}, {"start": 0.8, "end": 0.2}, {"strength": float("nan")}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LagConfig(**wrong)  # type: ignore[arg-type]


# Several concepts


def test_two_concepts_have_masks_of_their_own_that_never_overlap(host: DiffusersHost) -> None:
    seen: list[Tensor] = []
    first, second = concept(host), concept(host, "toy", "dog")
    edit = LagEdit([first, second], on_masks=lambda _, masks, __: seen.append(masks))
    with torch.no_grad():
        host.predict(LATENT, T, [prompt(host, f"{CAT} and {DOG}")], [edit])
    assert all(m.shape[1] == 2 and float(m.sum(dim=1).max()) == 1 for m in seen)
    assert all(m[:, i].any() for m in seen for i in range(2))


def test_two_concepts_everywhere_equal_both_merged(sd1: DiffusersHost) -> None:
    pair = concept(sd1), concept(sd1, "toy", "dog")
    with merged(sd1, *pair):
        expected = predicted(sd1)
    found = predicted(sd1, *(replace(c, config=LagConfig(localised=False)) for c in pair))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_concept_that_a_prompt_lacks_leaves_the_other_alone(sd1: DiffusersHost) -> None:
    alone = predicted(sd1, concept(sd1))
    both = predicted(sd1, concept(sd1), concept(sd1, "toy", "dog"))
    torch.testing.assert_close(both, alone, atol=1e-6, rtol=1e-6)
