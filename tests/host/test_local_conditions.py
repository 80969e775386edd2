"""Localised LoRAs where the model, the pass or the run is not the usual one."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import pytest
import torch
from local_loras import LINEAR, local, merged, random_lora
from nodes import KSampler, LatentUpscale, SetLatentNoiseMask
from test_compiled import by_node, by_patch
from test_lag import conditioning
from test_lag_company import control_net, controlled
from test_local_lora import ONES, PROMPT, ZEROS, drawn
from test_region_prompts import BASE, WAYS
from test_region_prompts import drawn as drawn_with
from tiny_models import Graph, assert_same_state, left_behind, make_graph, state_of

from conceptloom.attention.local_masks import MaskMeans
from conceptloom.errors import PromptError

LEFT = torch.cat([torch.ones(8, 5), torch.zeros(8, 5)], dim=1)


def in_eight_bits() -> Graph:
    """The weights of the tiny model as fp8 checkpoints hold them, cast for each use."""
    graph = make_graph("sd1", dtype=torch.float16)
    for part in graph.model.model.diffusion_model.modules():
        weight = getattr(part, "weight", None)
        if hasattr(part, "comfy_cast_weights") and weight is not None and weight.ndim > 1:
            small = weight.detach().to(torch.float8_e4m3fn)
            part.weight = torch.nn.Parameter(small, requires_grad=False)
    return graph


def as_cast(small: Graph) -> Graph:
    """The same numbers in float32."""
    graph = make_graph("sd1")
    state = {name: value.float() for name, value in small.model.model.state_dict().items()}
    with torch.no_grad():
        for name, value in graph.model.model.named_parameters():
            value.copy_(state[name])
    return graph


def test_weights_in_eight_bits():
    """Factors stay in the precision of the pass; a merge would round the sum to eight bits."""
    with torch.inference_mode():
        small = in_eight_bits()
        cast = as_cast(small)
    tensors = random_lora(cast, text=False)
    plain = drawn(small.model, small.clip, steps=1)
    zeros = local(small, tensors, "", mask=ZEROS)
    assert torch.equal(drawn(*zeros, steps=1), plain)
    for how in ({"words": "", "mask": ONES}, {}):
        got, expected = (drawn(*local(one, tensors, **how), steps=4) for one in (small, cast))
        torch.testing.assert_close(got, expected, atol=1e-2, rtol=5e-3)
        assert not torch.allclose(got, drawn(small.model, small.clip, steps=4), atol=1)


def test_weights_that_stay_out_of_the_devices_memory(sd1: Graph, monkeypatch: pytest.MonkeyPatch):
    """What does not fit is cast for each use, and LoRAs loaded as usual are added on the way."""
    patcher = type(sd1.model)
    tensors, style = random_lora(sd1), random_lora(sd1, 7, text=False, size=0.2)
    styled = merged(sd1, style)
    model, clip = local(sd1, tensors, "", mask=LEFT, model=styled[0], clip=styled[1])
    expected = drawn(model, clip)
    loads: list[int] = []
    load = patcher.load

    def barely(self: Any, device_to: Any = None, lowvram_model_memory: int = 0, **more: Any) -> Any:
        loads.append(1)
        return load(self, device_to, lowvram_model_memory=1024, **more)

    before = state_of(sd1.model)
    comfy.model_management.unload_all_models()
    with monkeypatch.context() as patched:
        patched.setattr(patcher, "load", barely)
        got = drawn(model, clip)
    assert loads
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    comfy.model_management.unload_all_models()
    assert_same_state(sd1.model, before)


def test_a_controlnet_steers_what_a_localised_lora_draws(sd1: Graph):
    before, net = state_of(sd1.model), control_net()
    model, clip = local(sd1, random_lora(sd1), "cat", mask=LEFT)
    both = controlled(model, clip, net)
    assert not torch.allclose(both, controlled(model, clip, net, 0.0), atol=1e-3)
    assert not torch.allclose(both, controlled(sd1.model, clip, net), atol=1e-3)
    off, clip = local(sd1, random_lora(sd1), "cat", mask=ZEROS)
    assert torch.equal(controlled(off, sd1.clip, net), controlled(sd1.model, sd1.clip, net))
    assert_same_state(sd1.model, before)


@pytest.mark.parametrize("compiled", [by_node, by_patch])
def test_a_compiled_model(sd1: Graph, compiled: Any):
    torch._dynamo.reset()
    model, clip = local(sd1, random_lora(sd1))
    expected = drawn(model, clip, steps=2)
    assert torch.equal(drawn(compiled(model), clip, steps=2), expected), "compiled behind it"
    front = local(sd1, random_lora(sd1), model=compiled(sd1.model))
    assert torch.equal(drawn(*front, steps=2), expected), "compiled in front of it"
    torch._dynamo.reset()


@pytest.mark.parametrize("at", [0, 3], ids=["while it is located", "while it works"])
def test_cancelling_within_a_pass_leaves_nothing(sd1: Graph, at: int):
    before = state_of(sd1.model)
    model, clip = local(sd1, random_lora(sd1))
    good = drawn(model, clip)
    passes: list[int] = []

    def stop(module: Any, args: Any) -> None:
        passes.append(1)
        if len(passes) == at + 1:
            raise comfy.model_management.InterruptProcessingException

    block = sd1.model.model.diffusion_model.middle_block[0]
    hook = block.register_forward_pre_hook(stop)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            drawn(model, clip)
    finally:
        hook.remove()
    assert left_behind(sd1.model.model) == []
    assert_same_state(sd1.model, before)
    assert torch.equal(drawn(model, clip), good)


def test_a_second_larger_pass_finds_its_own_place(sd1: Graph):
    masks: list[torch.Tensor] = []
    model, clip = local(sd1, random_lora(sd1), on_masks=masks.append)
    prompts = conditioning(clip, PROMPT), conditioning(clip, "")
    first = drawn(model, clip)
    large = LatentUpscale().upscale({"samples": first}, "bilinear", 160, 128, "disabled")[0]
    done = KSampler().sample(model, 6, 4, 4.0, "euler", "normal", *prompts, large, 0.6)[0]
    plain = KSampler().sample(sd1.model, 6, 4, 4.0, "euler", "normal", *prompts, large, 0.6)[0]
    assert [tuple(m.shape[-2:]) for m in masks] == [(8, 10), (16, 20)]
    assert done["samples"].shape[-2:] == (16, 20)
    assert not torch.allclose(done["samples"], plain["samples"], atol=1e-2)


def test_inpainting_keeps_what_is_outside(sd1: Graph):
    model, clip = local(sd1, random_lora(sd1))
    source = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(3))
    hole = torch.zeros(1, 64, 80)
    hole[..., :40] = 1
    latent = SetLatentNoiseMask().set_mask({"samples": source}, hole)[0]
    prompts = conditioning(clip, PROMPT), conditioning(clip, "")
    pictures = [
        KSampler().sample(m, 5, 5, 4.0, "euler", "normal", *prompts, latent, 1.0)[0]["samples"]
        for m in (model, sd1.model)
    ]
    for picture in pictures:
        torch.testing.assert_close(picture[..., 5:], source[..., 5:])
    assert not torch.allclose(pictures[0][..., :5], pictures[1][..., :5], atol=1e-2)


def test_two_prompts_of_one_batch_have_words_of_their_own(sd1: Graph):
    """Two positive prompts, each for its half of the picture: either may hold the words."""
    masks: list[torch.Tensor] = []
    model, clip = local(sd1, random_lora(sd1), "cat", on_masks=masks.append)
    with_cat, without = conditioning(clip, "a photo of a cat"), conditioning(clip, "a red house")
    both = drawn_with(model, [*with_cat, *without], conditioning(clip, ""))
    plain = drawn_with(sd1.model, [*with_cat, *without], conditioning(clip, ""))
    assert len(masks) == 1
    assert not torch.allclose(both, plain, atol=1e-2)
    with pytest.raises(PromptError, match='"cat"'):
        drawn_with(model, without, conditioning(clip, "a cat"))


@pytest.mark.parametrize("way", WAYS)
def test_prompts_of_regions_that_other_packs_keep(sd1: Graph, way: Any):
    """Attention couple: the words stand in a region's prompt only."""
    masks: list[torch.Tensor] = []
    tensors = random_lora(sd1, unet=LINEAR, text=False)
    model, clip = local(sd1, tensors, "cat", on_masks=masks.append)
    negative = conditioning(clip, "dull")
    ((context, _),) = conditioning(clip, "a photo of a cat")
    positive = conditioning(clip, BASE)
    plain = drawn_with(*way(sd1.model, positive, context, 1.0), negative, rows=2)
    got = drawn_with(*way(model, positive, context, 1.0), negative, rows=2)
    assert masks[0].shape[:2] == (2, 1)
    assert 0.02 < float(masks[0].mean()) < 0.98
    assert not torch.allclose(got, plain, atol=1e-2)
    off = local(sd1, tensors, "", mask=ZEROS)[0]
    torch.testing.assert_close(
        drawn_with(*way(off, positive, context, 1.0), negative, rows=2), plain
    )


@pytest.mark.parametrize("way", WAYS)
def test_everywhere_it_is_the_merged_lora_beside_such_a_pack(
    sd1: Graph, way: Any, caplog: pytest.LogCaptureFixture
):
    tensors = random_lora(sd1, unet=LINEAR, text=False)
    model, clip = local(sd1, tensors, "", mask=ONES)
    negative = conditioning(clip, "dull")
    ((context, _),) = conditioning(clip, "a photo of a cat")
    positive = conditioning(clip, BASE)
    expected = drawn_with(*way(merged(sd1, tensors)[0], positive, context, 1.0), negative)
    got = drawn_with(*way(model, positive, context, 1.0), negative)
    torch.testing.assert_close(got, expected, atol=5e-3, rtol=1e-3)
    assert "ToMe" not in caplog.text


def test_words_are_told_apart_by_triggers_and_masks(sd1: Graph):
    one, two = random_lora(sd1, 1), random_lora(sd1, 2)
    text = "miku, a cat, and reimu, a cat"
    masks: list[torch.Tensor] = []
    first = local(sd1, one, "cat", trigger="miku")
    pair = local(sd1, two, "cat", trigger="reimu", model=first[0], clip=first[1],
                 on_masks=masks.append)  # fmt: skip
    drawn(*pair, text=text)
    assert masks[0].shape[1] == 2
    assert not torch.equal(masks[0][:, 0], masks[0][:, 1])
    left = local(sd1, one, "cat", mask=LEFT, mask_means=MaskMeans.SOMEWHERE)
    both = local(sd1, two, "cat", mask=1 - LEFT, mask_means=MaskMeans.SOMEWHERE, model=left[0],
                 clip=left[1], on_masks=masks.append)  # fmt: skip
    drawn(*both, text=PROMPT)
    assert float((masks[1][:, 0] * masks[1][:, 1]).max()) < 0.5
    with pytest.raises(PromptError, match="trigger word"):
        local(sd1, two, "cat", model=first[0], clip=first[1])
