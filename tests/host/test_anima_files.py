"""Files with the names that ComfyUI's own classes give Anima's weights, opened in plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ldm.wan.vae
import comfy.text_encoders.anima
import pytest
import torch
from anima_models import EQUAL_EPS, anima, in_diffusers
from safetensors.torch import save_file
from tiny_models import random_state

from conceptloom.cli.models import open_host

WORDS = Path(comfy.text_encoders.anima.__file__).parent  # ComfyUI brings both tokenizers
PROMPT = "a photo of a red teapot"


def copied(module: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + n: w.detach().float().clone() for n, w in module.state_dict().items()}


@torch.inference_mode(False)
def test_the_published_files_are_the_model_of_comfyui(tmp_path: Path):
    pytest.importorskip("diffusers")
    graph = anima()
    vae = comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    vae.load_state_dict(random_state(vae, torch.Generator().manual_seed(5)))
    encoder = graph.clip.cond_stage_model.qwen3_06b.transformer
    files = {
        "diffusion_models": copied(graph.model.model.diffusion_model, "net."),
        "text_encoders": copied(encoder, ""),
        "vae": copied(vae, ""),
    }
    for name, weights in files.items():
        (tmp_path / name).mkdir()
        save_file(weights, str(tmp_path / name / "tiny.safetensors"))
    host, expected = open_host(str(tmp_path), layout=WORDS), in_diffusers(graph)
    for name, module in host.network.named_modules():
        if name.endswith(("norm_q", "norm_k")):
            module.eps = EQUAL_EPS
    prompts = [one.encode_prompt(PROMPT) for one in (host, expected)]
    assert prompts[0].tokens == prompts[1].tokens
    torch.testing.assert_close(prompts[0].context, prompts[1].context, rtol=1e-5, atol=1e-5)
    latent, t = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)), 0.7
    with torch.no_grad():
        ours, theirs = (
            one.predict(latent, torch.tensor([t]), [prompt])
            for one, prompt in zip((host, expected), prompts, strict=True)
        )
        image = torch.rand(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(2))
        encoded = vae.encode(image * 2 - 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    config = host.vae.config
    mean, std = (
        torch.tensor(n)[None, :, None, None] for n in (config.latents_mean, config.latents_std)
    )
    latents = host.encode_image(image[:, :, 0].movedim(1, -1))
    torch.testing.assert_close(latents, (encoded[:, :16, 0] - mean) / std, rtol=1e-4, atol=1e-4)
