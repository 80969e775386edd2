"""Localised LoRAs under the host's own samplers: exact at the ends, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from executor import pack_nodes
from local_loras import CONVOLUTIONS, LINEAR, NORMS, file_of, local, merged, random_lora
from nodes import KSampler
from safetensors.torch import save_file
from test_lag import conditioning, sample
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.attention.local_masks import MaskMeans
from conceptloom.errors import ConceptLoomError, ConfigError, PromptError
from conceptloom.host.comfyui.host import ComfyHost

PROMPT = "a photo of a cat and a dog"
EVERYTHING = (*LINEAR, *CONVOLUTIONS, *NORMS)
ONES, ZEROS = torch.ones(8, 10), torch.zeros(8, 10)


def drawn(model: Any, clip: Any, text: str = PROMPT, **how: Any) -> torch.Tensor:
    return sample(model, clip, text, **({"negative": "blurred", "steps": 5} | how))


@pytest.mark.parametrize("which", [LINEAR, CONVOLUTIONS, NORMS], ids=["linear", "conv", "norm"])
def test_a_mask_of_ones_is_core_load_lora(graph: Graph, which: tuple[str, ...]):
    tensors = random_lora(graph, unet=which)
    expected = drawn(*merged(graph, tensors, 0.7), steps=1, cfg=2.0)
    model, clip = local(graph, tensors, words="", mask=ONES, strength=0.7)
    got = drawn(model, clip, steps=1, cfg=2.0)
    assert not torch.allclose(got, drawn(graph.model, graph.clip, steps=1, cfg=2.0), atol=1e-2)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("which", [LINEAR, CONVOLUTIONS, NORMS], ids=["linear", "conv", "norm"])
def test_one_pass_under_ones_is_the_merged_models(graph: Graph, which: tuple[str, ...]):
    tensors = random_lora(graph, unet=which, text=False)
    model = local(graph, tensors, words="", mask=ONES, strength=0.7)[0]
    latent, at = torch.randn(2, 4, 8, 10, generator=torch.Generator().manual_seed(1)), [500, 20]
    plain = ComfyHost(graph.model, graph.clip)
    prompt = plain.encode_prompt(PROMPT)

    def predicted(model: Any) -> torch.Tensor:
        return ComfyHost(model, graph.clip).predict(latent, torch.tensor(at), [prompt])

    expected = predicted(merged(graph, tensors, 0.7)[0])
    assert not torch.allclose(expected, predicted(graph.model), atol=1e-2)
    torch.testing.assert_close(predicted(model), expected, atol=2e-5, rtol=1e-5)


def test_a_mask_of_zeros_is_the_base_model_bit_for_bit(graph: Graph):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    plain = drawn(graph.model, graph.clip)
    tensors = random_lora(graph, unet=EVERYTHING)
    model, _ = local(graph, tensors, words="", mask=ZEROS)
    assert torch.equal(drawn(model, graph.clip), plain)
    assert torch.equal(drawn(*local(graph, tensors, strength=0.0)), plain)
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_found_words_draw_otherwise_only_after_they_were_found(sd1: Graph):
    masks: list[torch.Tensor] = []
    tensors = random_lora(sd1)
    model, clip = local(sd1, tensors, on_masks=masks.append)
    plain = drawn(sd1.model, sd1.clip)
    assert not torch.allclose(drawn(model, clip), plain, atol=1e-3)
    assert len(masks) == 1
    assert masks[0].shape[:2] == (1, 1)
    assert 0.02 < float(masks[0].mean()) < 0.98
    # a LoRA that is looked for to the end never starts
    never, clip = local(sd1, tensors, found_after=1.0)
    assert torch.equal(drawn(never, clip), plain)


def test_the_order_of_nodes_does_not_matter(sd1: Graph):
    cat, dog = random_lora(sd1, 1), random_lora(sd1, 2)
    one = local(sd1, cat, "cat")
    one = local(sd1, dog, "dog", model=one[0], clip=one[1])
    other = local(sd1, dog, "dog")
    other = local(sd1, cat, "cat", model=other[0], clip=other[1])
    first = drawn(*one, rows=2)
    assert torch.equal(first, drawn(*other, rows=2))
    assert not torch.allclose(first, drawn(*local(sd1, cat, "cat"), rows=2), atol=1e-3)


def test_one_lora_twice_at_half_strength_is_once(sd1: Graph):
    tensors = random_lora(sd1)
    once = local(sd1, tensors, mask=ONES, words="")
    half = local(sd1, tensors, mask=ONES, words="", strength=0.5)
    twice = local(sd1, tensors, mask=ONES, words="", strength=0.5, model=half[0], clip=half[1])
    torch.testing.assert_close(drawn(*twice), drawn(*once), atol=1e-5, rtol=1e-5)


def test_pictures_of_a_batch_have_masks_of_their_own(sd1: Graph):
    masks: list[torch.Tensor] = []
    model, clip = local(sd1, random_lora(sd1), on_masks=masks.append)
    both = drawn(model, clip, rows=2)
    assert masks[0].shape[0] == 2
    assert not torch.equal(masks[0][0], masks[0][1])
    alone = drawn(model, clip, rows=1)
    torch.testing.assert_close(both[:1], alone, atol=1e-3, rtol=1e-3)


def test_a_second_run_has_masks_of_its_own(sd1: Graph):
    masks: list[torch.Tensor] = []
    model, clip = local(sd1, random_lora(sd1), on_masks=masks.append)
    first = drawn(model, clip)
    drawn(model, clip, size=(16, 8))
    assert torch.equal(drawn(model, clip), first)
    assert [tuple(m.shape[-2:]) for m in masks] == [(8, 10), (16, 8), (8, 10)]


@pytest.mark.parametrize("sampler", ["heun", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"])
def test_other_samplers_draw(sd1: Graph, sampler: str):
    masks: list[torch.Tensor] = []
    model, clip = local(sd1, random_lora(sd1), on_masks=masks.append)
    got = drawn(model, clip, sampler=sampler)
    assert got.isfinite().all()
    assert len(masks) == 1


def test_a_picture_is_the_source_of_another(sd1: Graph):
    masks: list[torch.Tensor] = []
    model, clip = local(sd1, random_lora(sd1), on_masks=masks.append)
    latent = {"samples": torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(3))}
    prompts = conditioning(clip, PROMPT), conditioning(clip, "")
    got = KSampler().sample(model, 5, 4, 4.0, "euler", "normal", *prompts, latent, 0.4)[0]
    assert got["samples"].isfinite().all()
    assert len(masks) == 1, "one step shows the place where most of the noise is gone"


def test_where_words_are_missing_the_prompt_is_quoted(sd1: Graph):
    model, clip = local(sd1, random_lora(sd1), "horse")
    with pytest.raises(PromptError, match='"horse"'):
        drawn(model, clip)
    with pytest.raises(ConfigError, match="words"):
        local(sd1, random_lora(sd1), "")
    one = local(sd1, random_lora(sd1, 1), "cat")
    with pytest.raises(PromptError, match="cannot be told apart"):
        local(sd1, random_lora(sd1, 2), "cat", model=one[0], clip=one[1])


def test_somewhere_in_here_stays_inside(sd1: Graph):
    masks: list[torch.Tensor] = []
    left = torch.cat([torch.ones(8, 5), torch.zeros(8, 5)], dim=1)
    model, clip = local(
        sd1, random_lora(sd1), mask=left, mask_means=MaskMeans.SOMEWHERE, on_masks=masks.append
    )
    drawn(model, clip)
    assert float(masks[0][..., :5].mean()) > 10 * float(masks[0][..., 8:].mean())


def test_only_its_own_place_reads_the_loras_text_encoder(sd1: Graph):
    """A LoRA of the text encoder alone: its context travels beside the plain one."""
    tensors = random_lora(sd1, unet=("q_proj", "v_proj"))
    assert not file_of(sd1, tensors).unet
    plain = drawn(sd1.model, sd1.clip)
    everywhere = drawn(*merged(sd1, tensors))
    got = drawn(*local(sd1, tensors, mask=ONES, words=""))
    torch.testing.assert_close(got, everywhere, atol=1e-3, rtol=1e-3)
    assert torch.equal(drawn(*local(sd1, tensors, mask=ZEROS, words="")), plain)


def test_nothing_is_left_behind_by_a_crash(sd1: Graph, monkeypatch: pytest.MonkeyPatch):
    before = state_of(sd1.model)
    model, clip = local(sd1, random_lora(sd1, unet=EVERYTHING))
    good = drawn(model, clip)

    def broken(*_: Any, **__: Any) -> None:
        raise ConceptLoomError("stopped")

    prompts = conditioning(clip, PROMPT), conditioning(clip, "")
    latent = {"samples": torch.zeros(1, 4, 8, 10)}
    with monkeypatch.context() as patched:
        patched.setattr("latent_preview.prepare_callback", lambda *_: broken)
        with pytest.raises(ConceptLoomError, match="stopped"):
            KSampler().sample(model, 5, 4, 4.0, "euler", "normal", *prompts, latent, 1.0)
    assert_same_state(sd1.model, before)
    assert torch.equal(drawn(model, clip), good)


def test_the_nodes_draw_two_loras_and_show_their_places(sd1: Graph, folders: Path):
    for number, name in enumerate(("one", "two")):
        save_file(
            random_lora(sd1, number),
            folders / "models" / "loras" / f"{name}.safetensors",
            {"modelspec.trigger_phrase": name},
        )
    folder_paths.filename_list_cache.clear()
    nodes = {name.removeprefix("ConceptLoom"): node for name, node in pack_nodes().items()}
    load = nodes["LoadLoraLocalized"]
    knobs = {
        "strength_model": 1.0, "strength_clip": 1.0, "mask_means": "exactly here",
        "found_after": 0.2, "threshold": 0.45, "grow": 0.06, "end": 1.0,
    }  # fmt: skip
    model, clip, trigger = load.execute(
        sd1.model, sd1.clip, "one.safetensors", "cat", **knobs
    ).result
    assert trigger == "one"
    model, clip, _ = load.execute(model, clip, "two.safetensors", "dog", **knobs).result
    first = load.fingerprint_inputs("one.safetensors")
    assert first != load.fingerprint_inputs("two.safetensors")
    show = nodes["LocalizedLoraMasks"]
    image = torch.zeros(2, 64, 80, 3)
    with pytest.raises(Exception, match="without masks"):
        show.execute(model, image)
    drawn(model, clip, rows=2)
    overlay, masks = show.execute(model, image).result
    assert overlay.shape == (1, 64, 80, 3)
    assert masks.shape == (4, 64, 80)
    assert float((masks[0] * masks[1]).mean()) < float(masks[:2].mean())
    with pytest.raises(Exception, match="no LoRA 'three"):
        load.execute(sd1.model, sd1.clip, "three.safetensors", "cat", **knobs)
