"""Localised LoRAs beside other nodes, in both hosts, and where a pass is not what it seems."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from comfy_extras.nodes_tomesd import TomePatchModel
from local_loras import file_of, local, merged, random_lora
from nodes import (
    ConditioningConcat,
    ConditioningZeroOut,
    KSampler,
)
from test_lag import concept_of, conditioning, sample
from test_local_lora import ONES, PROMPT, drawn
from tiny_models import Graph

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_setup import local_setup, lora_for
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.diffusers.host import DiffusersHost
from conceptloom.methods.personalized_residuals import Localised
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.tinyworld import TinyWorldCheckpoint

LEFT = torch.cat([torch.ones(8, 5), torch.zeros(8, 5)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False], ids=["painted", "found"])
def test_both_hosts_predict_the_same(masked: bool):
    graph = Graph(*TinyWorldCheckpoint.execute().result)
    comfy_host, plain = ComfyHost(graph.model, graph.clip), DiffusersHost.tinyworld()
    which = ("to_q", "to_k", "to_v", "ff.net.2", "in_layers.2", "emb_layers.1", "norm1", "q_proj")
    tensors = {name: 0.5 * t for name, t in random_lora(graph, unet=which).items()}
    latent = torch.randn(2, comfy_host.latent_channels, 16, 16)
    at = torch.tensor([600, 300])
    found: list[torch.Tensor] = []
    for host in (comfy_host, plain):
        lora = LocalLora(
            file=lora_for(host, tensors),
            name="x",
            words="blue circle",
            tokens=host.tokenize("blue circle"),
            config=LocalConfig(),
            mask=torch.tril(torch.ones(16, 16)) if masked else None,
        )
        setup = local_setup(host, [lora])
        prompts = [setup.encode("a blue circle and a square"), setup.encode("")]
        edit = setup.edit(10, {"": prompts[0].tokens})
        edit = type(edit)(setup.loras, setup.layers)  # of a single pass
        found.append(host.predict(latent, at, prompts, [edit], [True, False]).cpu())
    base = plain.predict(latent, at, [plain.encode_prompt("a blue circle and a square")] * 2)
    assert not torch.allclose(found[0], base, atol=1e-2)
    torch.testing.assert_close(found[0], found[1], atol=2e-4, rtol=2e-4)


def test_a_style_lora_works_everywhere_before_and_behind(sd1: Graph):
    style, own = random_lora(sd1, 7, text=False, size=0.2), random_lora(sd1, 1, text=False)
    styled = merged(sd1, style)
    before = local(sd1, own, "", mask=LEFT, model=styled[0], clip=styled[1])
    inner = local(sd1, own, "", mask=LEFT)
    behind = merged(Graph(*inner, sd1.vae), style)
    first = drawn(*before)
    torch.testing.assert_close(drawn(*behind), first, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first, drawn(*inner), atol=1e-2)
    both = merged(Graph(*styled, sd1.vae), own)
    ones = local(sd1, own, "", mask=ONES, model=styled[0], clip=styled[1])
    torch.testing.assert_close(drawn(*ones), drawn(*both), atol=2e-3, rtol=2e-3)


def test_a_lora_beside_a_learned_concept(sd1: Graph):
    text = "a photo of a <my-cat> cat and a dog"
    with_concept = with_lag(sd1.model, sd1.clip, [Localised(concept=concept_of(sd1))])
    behind = local(sd1, random_lora(sd1), "dog", model=with_concept[0], clip=with_concept[1])
    alone = local(sd1, random_lora(sd1), "dog")
    before = with_lag(*alone, [Localised(concept=concept_of(sd1))])
    for both in (behind, before):
        got = drawn(*both, text=text)
        assert got.isfinite().all()
        for single in (with_concept[0], alone[0]):
            assert not torch.allclose(got, drawn(single, both[1], text=text), atol=1e-3)


def test_prompts_longer_than_one_chunk_and_joined_ones(sd1: Graph):
    long = ", ".join(["a wide field with many flowers"] * 20) + ", a cat"
    model, clip = local(sd1, random_lora(sd1))
    assert drawn(model, clip, text=long).isfinite().all()
    cat, field = conditioning(clip, "a cat"), conditioning(clip, "a field")
    joined = ConditioningConcat().concat(cat, field)[0]
    blank = ConditioningZeroOut().zero_out(conditioning(clip, ""))[0]
    latent = {"samples": torch.zeros(1, 4, 8, 10)}
    got = KSampler().sample(model, 5, 4, 4.0, "euler", "normal", joined, blank, latent, 1.0)[0]
    assert got["samples"].isfinite().all()


def test_a_blanked_prompt_stays_blank(sd1: Graph):
    """The text part of a LoRA adds nothing to a prompt of zeros."""
    tensors = random_lora(sd1, unet=("q_proj", "v_proj", "fc1"))
    assert file_of(sd1, tensors).text
    model, clip = local(sd1, tensors, "", mask=ONES)
    latent = {"samples": torch.zeros(1, 4, 8, 10)}

    def blank(model: Any, clip: Any) -> torch.Tensor:
        zero = ConditioningZeroOut().zero_out(conditioning(clip, "a cat"))[0]
        done = KSampler().sample(model, 5, 2, 1.0, "euler", "normal", zero, zero, latent, 1.0)
        return done[0]["samples"]

    torch.testing.assert_close(blank(model, clip), blank(sd1.model, sd1.clip), atol=1e-4, rtol=1e-4)


def test_tiles_of_another_size_find_their_own_place(sd1: Graph):
    model, clip = local(sd1, random_lora(sd1))
    halves = model.clone()

    def in_halves(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        x = given["input"]
        if x.shape[-1] < 16:
            return apply(x, given["timestep"], **given["c"])
        parts = [apply(p, given["timestep"], **given["c"]) for p in x.split(8, dim=-1)]
        return torch.cat(parts, dim=-1)

    halves.set_model_unet_function_wrapper(in_halves)
    got = drawn(halves, clip, size=(8, 16))
    assert got.isfinite().all()


def test_merged_tokens_are_left_out_and_reported(sd1: Graph, caplog: pytest.LogCaptureFixture):
    model, clip = local(sd1, random_lora(sd1, text=False), "", mask=torch.ones(16, 16))
    patched = TomePatchModel.execute(model, 0.5).result[0]
    with caplog.at_level(logging.WARNING, "conceptloom"):
        got = sample(patched, clip, PROMPT, steps=2, size=(16, 16))
    assert got.isfinite().all()
    assert "ToMe" in caplog.text
