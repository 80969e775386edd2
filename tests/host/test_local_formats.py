"""Every kind of LoRA file under a mask of ones against core's Load LoRA, in whole models."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from local_loras import Tensors, local, merged
from test_local_lora import ONES, PROMPT, ZEROS, drawn
from tiny_models import Graph

from conceptloom.host.comfyui.host import ComfyHost

PLACES = ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ff.net.2", "proj_in",
          "in_layers.2", ".op", "emb_layers.1", "q_proj")  # fmt: skip
RANK, BLOCK = 2, 8
ALPHA = torch.tensor(1.0)


def entry(kind: str, shape: torch.Size, generator: torch.Generator) -> Tensors:
    """One module's tensors of a kind of file, small enough for the whole model to stay sound."""

    def random(*size: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(size, generator=generator)

    out, inner, kernel = shape[0], shape[1], tuple(shape[2:])
    ones = (1,) * len(kernel)
    count = shape[1:].numel()
    down = random(RANK, inner, *kernel, scale=count**-0.5)
    lora = {"lora_up.weight": random(out, RANK, *ones), "lora_down.weight": down, "alpha": ALPHA}
    match kind:
        case "LoRA":
            return lora
        case "LoCon, Tucker" if kernel:
            return {
                **lora,
                "lora_down.weight": random(RANK, inner, *ones, scale=inner**-0.5),
                "lora_mid.weight": random(RANK, RANK, *kernel),
            }
        case "LoHa":
            return {
                "hada_w1_a": random(out, RANK), "hada_w1_b": random(RANK, count),
                "hada_w2_a": random(out, RANK), "hada_w2_b": random(RANK, count, scale=count**-0.5),
                "alpha": ALPHA,
            }  # fmt: skip
        case "LoKr":
            left = random(4, 2, scale=1.0)
            return {"lokr_w1": left, "lokr_w2": random(out // 4, inner // 2, *kernel, scale=0.05)}
        case "GLoRA":
            return {
                "a1.weight": random(inner, RANK, scale=inner**-0.5),
                "a2.weight": random(RANK, inner),
                "b1.weight": random(out, RANK), "b2.weight": random(RANK, count, scale=count**-0.5),
                "alpha": ALPHA,
            }  # fmt: skip
        case "DoRA":
            return {**lora, "dora_scale": 1 + random(out, 1, *ones).abs()}
        case "DoRA, inputs":
            return {**lora, "dora_scale": 0.5 + random(1, inner, *ones).abs()}
        case "OFT":
            return {"oft_blocks": random(out // BLOCK, BLOCK, BLOCK), "alpha": torch.tensor(0.0)}
        case "BOFT":
            return {"oft_blocks": random(1, out // BLOCK, BLOCK, BLOCK), "alpha": torch.tensor(0.0)}
        case "differences":
            return {"diff": random(*shape, scale=0.3 * count**-0.5), "diff_b": random(out)}
        case _:
            return lora


KINDS = ("LoRA", "LoCon, Tucker", "LoHa", "LoKr", "GLoRA", "DoRA", "DoRA, inputs", "OFT", "BOFT",
         "differences")  # fmt: skip


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
