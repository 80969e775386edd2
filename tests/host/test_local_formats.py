"""Every kind of LoRA file under a mask of ones against core's Load LoRA, in whole models."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from local_loras import Tensors, local, merged
from test_local_lora import ONES, PROMPT, ZEROS, drawn
from tiny_models import Graph

from conceptloom.host.comfyui.host import ComfyHost

sys.path.append(str(Path(__file__).parents[1]))

from unit.lora_kinds import KINDS, entry

PLACES = ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ff.net.2", "proj_in",
          "in_layers.2", ".op", "emb_layers.1", "q_proj")  # fmt: skip


def tensors_of(graph: Graph, kind: str) -> Tensors:
    host = ComfyHost(graph.model, graph.clip)
    generator = torch.Generator().manual_seed(len(kind))
    tensors: Tensors = {}
    for name in host.weight_names():
        network, _, path = name.removesuffix(".weight").partition(".")
        if name.endswith(".weight") and path.endswith(PLACES):
            start = (
                "diffusion_model" if network == "unet" else f"text_encoders.{network}.transformer"
            )
            made = entry(kind, host.weight(name).shape, generator)
            if "attn" in path and not path.endswith("to_out.0"):
                made.pop("diff_b", None)  # these have no bias
            tensors |= {f"{start}.{path}.{part}": tensor for part, tensor in made.items()}
    return tensors


@pytest.mark.parametrize("kind", KINDS)
def test_ones_are_core_load_lora_and_zeros_the_base(sd1: Graph, kind: str):
    tensors = tensors_of(sd1, kind)
    unet = {name: tensor for name, tensor in tensors.items() if "text_encoders" not in name}
    latent, at = torch.randn(2, 4, 8, 10, generator=torch.Generator().manual_seed(1)), [500, 20]
    prompt = ComfyHost(sd1.model, sd1.clip).encode_prompt(PROMPT)

    def predicted(model: Any) -> torch.Tensor:
        return ComfyHost(model, sd1.clip).predict(latent, torch.tensor(at), [prompt])

    plain = predicted(sd1.model)
    for strength in (1.0, 0.7):
        expected = predicted(merged(sd1, unet, strength)[0])
        got = predicted(local(sd1, unet, "", mask=ONES, strength=strength)[0])
        assert not torch.allclose(expected, plain, atol=1e-3)
        torch.testing.assert_close(got, expected, atol=3e-5, rtol=1e-4)
    assert torch.equal(predicted(local(sd1, unet, "", mask=ZEROS)[0]), plain)
    # with the text encoder, whose context is the region's own
    whole = drawn(*local(sd1, tensors, "", mask=ONES, strength=0.7), steps=1)
    core = drawn(*merged(sd1, tensors, 0.7), steps=1)
    torch.testing.assert_close(whole, core, atol=5e-3, rtol=2e-3)


def test_whole_differences_tell_their_memory(sd1: Graph, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "conceptloom"):
        local(sd1, tensors_of(sd1, "OFT"), "cat")
    assert "MB" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "conceptloom"):
        local(sd1, tensors_of(sd1, "LoRA"), "cat")
    assert "MB" not in caplog.text
