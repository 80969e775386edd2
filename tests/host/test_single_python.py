"""Z-Image and Krea 2 through diffusers' classes: the same model as in ComfyUI."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_single_stream import LATENT, PROMPT
from tiny_models import Graph
from tiny_single import CLIPS, diffusers_network, single_graph, single_kind

from conceptloom.attention.local_lora import LocalLora
from conceptloom.attention.local_setup import local_setup, lora_for
from conceptloom.errors import ModelError, PromptError, UnsupportedModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.diffusers import SingleStreamHost

kind, graph = single_kind, single_graph


def text_encoder(kind: str, clip: Any) -> Any:
    """ComfyUI's weights in transformers' class."""
    from transformers import Qwen3Config, Qwen3Model

    name, sizes = CLIPS[kind][2:]
    config = Qwen3Config(**sizes, vocab_size=151936, head_dim=128, rms_norm_eps=1e-6,
                         rope_theta=5e6 if kind == "krea2" else 1e6)  # fmt: skip
    model = Qwen3Model(config)
    state = getattr(clip.cond_stage_model, name).transformer.model.state_dict()
    model.load_state_dict({k: v.clone() for k, v in state.items()}, strict=False)
    return model.eval().requires_grad_(False)


def python_host(kind: str, graph: Graph, **changed: Any) -> SingleStreamHost:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    with torch.inference_mode(False):
        torch.manual_seed(0)
        blocks = 4
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=(8,) * blocks, norm_num_groups=4, latent_channels=16,
            shift_factor=0.1159, scaling_factor=0.3611,
        ).eval()  # fmt: skip
        shift = {"shift": 3.0} if kind == "z_image" else {
            "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
        }  # fmt: skip
        parts = {
            "transformer": diffusers_network(kind),
            "vae": vae,
            "text_encoder": text_encoder(kind, graph.clip),
            "tokenizer": getattr(graph.clip.tokenizer, CLIPS[kind][2]).tokenizer,
            "scheduler": FlowMatchEulerDiscreteScheduler(**shift),
        }
        return SingleStreamHost(**{**parts, **changed})


@pytest.fixture
def host(kind: str, graph: Graph) -> SingleStreamHost:
    return python_host(kind, graph)


def test_both_hosts_are_one_model(kind: str, graph: Graph, host: SingleStreamHost):
    comfy = ComfyHost(graph.model, graph.clip)
    assert host.fingerprint == comfy.fingerprint
    assert host.noise_path.shift == pytest.approx(comfy.noise_path.shift, rel=1e-6)
    assert host.latent_channels == comfy.latent_channels == 16
    assert host.pixels_per_latent == 8
    ours, theirs = host.encode_prompt(PROMPT), comfy.encode_prompt(PROMPT)
    assert ours.tokens == theirs.tokens
    assert ours.content == theirs.content
    torch.testing.assert_close(ours.context, theirs.context, rtol=1e-4, atol=1e-4)
    prompts = [comfy.encode_prompt(text) for text in (PROMPT, "blurry")]
    t = torch.tensor([0.8, 0.3])
    torch.testing.assert_close(
        host.predict(LATENT, t, prompts), comfy.predict(LATENT, t, prompts), rtol=1e-5, atol=1e-5
    )


def test_weights_have_one_name(graph: Graph, host: SingleStreamHost):
    comfy = ComfyHost(graph.model, graph.clip)
    of_network = [name for name in host.weight_names() if name.startswith("transformer.")]
    assert set(of_network) <= set(comfy.weight_names())
    for name in of_network[:: len(of_network) // 12]:
        torch.testing.assert_close(host.weight(name), comfy.weight(name).float())
    # ComfyUI computes norms of language models in its own way, and shows no weights of them.
    every = host.weight_names()
    of_text = [n for n in every if not n.startswith("transformer.") and "norm" not in n]
    assert set(of_text) <= set(comfy.weight_names())
    torch.testing.assert_close(host.weight(of_text[3]), comfy.weight(of_text[3]))
    assert {s.weight for s in host.sites.layers} == {s.weight for s in comfy.sites.layers}


def test_two_localised_loras(kind: str, graph: Graph, host: SingleStreamHost):
    """Of two layouts, found by their words, equal in both hosts after a run of steps."""
    comfy = ComfyHost(graph.model, graph.clip)
    pictures = []
    for one in (host, comfy):
        loras = []
        for number, words in enumerate(("red teapot", "Teapots")):
            generator, tensors = torch.Generator().manual_seed(number), {}
            for site in one.sites.layers:
                rows, columns = one.weight(site.weight).shape
                up = 0.2 * torch.randn(rows, 2, generator=generator)
                down = torch.randn(2, columns, generator=generator) / columns**0.5
                flat = f"lora_unet_{site.name.replace('.', '_')}"
                names = (f"{flat}.lora_up.weight", f"{flat}.lora_down.weight")
                if number:
                    start = f"transformer.{site.name}"
                    names = (f"{start}.lora_B.weight", f"{start}.lora_A.weight")
                tensors |= dict(zip(names, (up, down), strict=True))
            file = lora_for(one, tensors)
            assert file.unmatched == ()
            loras.append(LocalLora(file=file, name=words, words=words, tokens=one.tokenize(words)))
        setup = local_setup(one, loras)
        prompt, negative = setup.encode(PROMPT), setup.encode("blurry")
        steps, latent = 5, LATENT[:1]
        edit = setup.edit(steps, {PROMPT: prompt.tokens})
        levels = one.noise_path.levels(steps)
        with torch.no_grad():
            for level, after in pairwise(levels):
                both = one.predict(
                    torch.cat([latent] * 2), level.expand(2), [prompt, negative], [edit],
                    [True, False],
                ).cpu()  # fmt: skip
                output = both[1:] + 2 * (both[:1] - both[1:])
                latent = latent + (after - level) * output
        pictures.append(latent)
    assert pictures[0].isfinite().all()
    torch.testing.assert_close(*pictures, rtol=1e-3, atol=1e-3)


def test_pictures(host: SingleStreamHost):
    image = torch.rand(2, 80, 96, 3, generator=torch.Generator().manual_seed(0))
    latent = host.encode_image(image)
    assert latent.shape == (2, 16, 10, 12)
    raw = host.vae.encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mean
    torch.testing.assert_close(latent, (raw - 0.1159) * 0.3611)
    assert host.decode_latent(latent).shape == image.shape


def test_what_does_not_fit_is_refused_in_words(kind: str, graph: Graph, host: SingleStreamHost):
    from diffusers import DDIMScheduler

    with pytest.raises(UnsupportedModelError, match="FlowMatchEuler"):
        python_host(kind, graph, scheduler=DDIMScheduler())
    with pytest.raises(UnsupportedModelError, match="no single-stream transformer"):
        python_host(kind, graph, transformer=torch.nn.Linear(2, 2))
    wide = text_encoder(kind, graph.clip)
    wide.set_input_embeddings(torch.nn.Embedding(10, 64))
    with pytest.raises(ModelError, match="makes contexts"):
        python_host(kind, graph, text_encoder=wide)
    with pytest.raises(PromptError, match="has no vectors"):
        host.encode_prompt("a <mug>", {"mug": {}})
    assert math.isfinite(host.noise_path.shift)
