"""The diffusion prior: gradients through its steps, the right end token, repeatable numbers."""

from __future__ import annotations

import pytest
import torch

from conceptloom.errors import ConfigError, PromptError, UnsupportedModelError
from conceptloom.vision.clip_space import ClipSpace
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.prior import cut_square
from conceptloom.vision.text_side import ClipText, HostText

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from .tiny_prior import WIDTH, tiny_prior, tiny_text

PLAIN = PriorSampling(steps=3, checkpointing=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def handle(width: int = WIDTH, seed: int = 5) -> dict[str, dict[str, torch.Tensor]]:
    vector = torch.randn(1, width, generator=generator(seed), requires_grad=True)
    return {"new": {"clip_l": vector}}


def test_the_gradient_passes_every_step_and_reaches_the_handle_alone() -> None:
    prior, vectors = tiny_prior(), handle()
    with prior.computing():
        prior.imagine("a photo of a <new>", vectors, generator(), PLAIN).sum().backward()
    gradient = vectors["new"]["clip_l"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    networks = (prior.text.model, prior.prior, prior.vision)  # type: ignore[attr-defined]
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_checkpointing_changes_neither_value_nor_gradient() -> None:
    prior, results = tiny_prior(), []
    for checkpointing in (False, True):
        vectors = handle()
        sampling = PriorSampling(steps=3, checkpointing=checkpointing)
        with prior.computing():
            imagined = prior.imagine("a <new>", vectors, generator(), sampling)
            imagined.sum().backward()
        results.append((imagined.detach(), vectors["new"]["clip_l"].grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_the_same_generator_gives_the_same_embedding_and_another_one_another() -> None:
    prior, vectors = tiny_prior(), handle()
    with torch.no_grad():
        a, b, c = (prior.imagine("a <new>", vectors, generator(s), PLAIN) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_it_samples_as_diffusers_own_pipeline_does() -> None:
    """Same noise, same guidance: our steps against KandinskyPriorPipeline's."""
    from diffusers import KandinskyPriorPipeline

    prior = tiny_prior()
    text = prior.text
    assert isinstance(text, ClipText)
    with torch.no_grad():
        ours = prior.imagine("a red dog", {}, generator(3), PLAIN)
        rows = [text.encode(t, {}) for t in ("", "a red dog")]
        pooled, hidden, mask = (
            torch.cat([getattr(row, part) for row in rows]) for part in ("pooled", "hidden", "mask")
        )

    class Encoded(KandinskyPriorPipeline):
        def __init__(self) -> None:
            self.prior, self.scheduler = prior.prior, prior.scheduler

        _execution_device = torch.device("cpu")

        def _encode_prompt(self, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
            return pooled, hidden, mask

        def get_zero_embed(self, *_: object, **__: object) -> torch.Tensor:
            return torch.zeros(1, WIDTH)

        def progress_bar(self, iterable: object = None, total: object = None) -> object:
            return iterable

        def maybe_free_model_hooks(self) -> None: ...

    theirs = Encoded()(
        "a red dog", num_inference_steps=3, generator=generator(3), guidance_scale=4.0
    )
    torch.testing.assert_close(ours, theirs.image_embeds[0])


def test_guidance_of_one_needs_no_second_prompt() -> None:
    prior = tiny_prior()
    with torch.no_grad():
        prior.imagine("a dog", {}, generator(), PriorSampling(steps=2, guidance=1.0))
    assert not prior._fixed


@pytest.mark.parametrize("legacy", [False, True])
def test_the_end_token_is_found_although_the_handle_could_have_the_highest_id(legacy: bool) -> None:
    """With old configurations transformers pools the highest id: that of an added token."""
    text = tiny_text(legacy=legacy)
    table = text.model.get_input_embeddings()
    vector = table.weight[40:41].detach().clone()
    spliced = text.encode("a <new> dog", {"new": {"clip_l": vector}})
    ids = [1, *text.tokenize("a"), 40, *text.tokenize("dog"), 996, *[0] * 19]
    with torch.no_grad():
        hidden = text.model(input_ids=torch.tensor([ids])).last_hidden_state
        expected = text.model.text_projection(hidden[:, 4])
    torch.testing.assert_close(spliced.pooled, expected)
    assert spliced.mask[0].tolist() == [True] * 5 + [False] * 19


def test_a_long_prompt_is_cut_and_keeps_its_end_token() -> None:
    encoded = tiny_text().encode("dog " * 60, {})
    assert encoded.mask.all()
    assert encoded.hidden.shape[1] == 24


def test_a_handle_of_another_width_is_refused() -> None:
    prior = tiny_prior()
    with pytest.raises(PromptError, match=r"8 wide.*16 wide"):
        prior.imagine("a <new>", handle(8), generator(), PLAIN)


def test_meanings_and_looks_have_unit_length() -> None:
    prior = tiny_prior()
    meant = prior.meanings(["a dog", "a cat"])
    seen = prior.look_at(torch.rand(2, 20, 30, 3, generator=generator()))
    for found in (meant, seen):
        assert found.shape == (2, WIDTH)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert not torch.allclose(seen[0], seen[1])
    assert prior.blank().shape == (1, WIDTH)


@pytest.mark.parametrize("size", [(30, 22), (44, 97), (16, 16)])
def test_pictures_are_cut_as_clips_own_processor_cuts_them(size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    at = torch.linspace(0, 3, size[0])[:, None], torch.linspace(0, 5, size[1])[None]
    image = torch.stack([(at[0] + at[1]).sin(), (at[0] * at[1]).cos(), at[0] + 0 * at[1]], dim=-1)
    image = (image - image.min()) / (image.max() - image.min())
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    bytes_ = (image * 255).round().byte().numpy()
    expected = processor(bytes_, return_tensors="pt").pixel_values
    found = cut_square(image[None], 16)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)  # theirs rounds to bytes


def test_constraints_may_have_an_encoder_of_their_own() -> None:
    prior = tiny_prior(constraints=lambda texts: torch.ones(len(texts), WIDTH))
    torch.testing.assert_close(prior.meanings(["a"])[0], torch.full((WIDTH,), WIDTH**-0.5))


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"guidance": 0.5}, {"steps": True}])
def test_sampling_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PriorSampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_base_models_own_text_space_learns_too(family: str) -> None:
    host = tiny_host(family)
    space = ClipSpace(host)
    space.meanings(["a dog"])  # transformers puts recorders on at first use
    before = snapshot(host)
    start = space.word_vectors("dog")
    vectors = {"new": {n: rows[:1].clone().requires_grad_() for n, rows in start.items()}}
    with space.computing():
        imagined = space.imagine("a photo of a <new>", vectors, generator(), PLAIN)
        # Not the plain sum: a layer norm comes last, and what it gives always sums to the same.
        (imagined * torch.linspace(1, 2, imagined.numel()).view_as(imagined)).sum().backward()
    assert all(float(rows.grad.abs().sum()) > 0 for rows in vectors["new"].values())  # type: ignore[union-attr]
    with torch.no_grad():
        same = space.imagine("a photo of a <new>", {"new": start}, generator(), PLAIN)
    torch.testing.assert_close(
        torch.nn.functional.normalize(same, dim=0), space.meanings(["a photo of a dog"])[0]
    )
    with pytest.raises(UnsupportedModelError, match="prior"):
        space.look_at(torch.zeros(1, 8, 8, 3))
    assert_unchanged(before, host)


def test_a_projection_is_applied_to_the_end_token() -> None:
    host = tiny_host()
    plain = HostText(host).encode("a dog", {})
    turned = HostText(host, 2 * torch.eye(16)).encode("a dog", {})
    torch.testing.assert_close(turned.pooled, 2 * plain.pooled)
    assert int(plain.mask.sum()) == 4
