"""Base models of the real classes with random weights, small enough for a test on one thread."""

from __future__ import annotations

import re
import zlib
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from conceptloom.host.diffusers import DiffusersHost  # noqa: E402
from conceptloom.host.diffusers.prompts import TextEncoder  # noqa: E402

START, END, WORDS = 1, 996, 997  # END is the highest, and the padding, as in CLIP
FAMILIES = ("sd1", "sd2", "sdxl")

_SHARED = {
    "sample_size": 16,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "act_fn": "silu",
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        **_SHARED,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
    },
    "sd2": {
        **_SHARED,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (2, 4, 4),
        "cross_attention_dim": 16,
        "use_linear_projection": True,
    },
    "sdxl": {
        **_SHARED,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 16 + 24,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 24,
    },
}


class WordTokenizer:
    """One token for a short word, one for every six letters of a longer one."""

    bos_token_id, eos_token_id = START, END

    def __init__(self, pad: int = END) -> None:
        self.pad_token_id = pad

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens
        pieces = [word[i : i + 6] for word in text.split() for i in range(0, len(word), 6)]
        pieces = [p for piece in pieces for p in re.findall(r"[\w-]+|[^\w\s]", piece)]
        return {"input_ids": [3 + zlib.crc32(p.encode()) % (END - 3) for p in pieces]}


def text_encoder(name: str, width: int, seed: int, *, xl: bool = False) -> TextEncoder:
    projected = xl and name == "clip_g"
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    config = transformers.CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():  # rows as different as those of a trained table
        model.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(seed))
    tokenizer = WordTokenizer(pad=0 if projected else END)
    return TextEncoder(name, model, tokenizer, penultimate=xl, projected=projected)


def unet_of(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DConditionModel(**UNETS[family]).eval()


def tiny_host(
    family: str = "sd1", *, velocity: bool = False, zero_snr: bool = False, seed: int = 0
) -> DiffusersHost:
    """Pictures have 2 px per latent; latents have 4 channels."""
    with torch.random.fork_rng():
        unet = unet_of(family, seed)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
        ).eval()
        if family == "sdxl":
            encoders = [
                text_encoder("clip_l", 16, seed + 1, xl=True),
                text_encoder("clip_g", 24, seed + 2, xl=True),
            ]
        else:
            encoders = [text_encoder("clip_l", 16, seed + 1)]
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if velocity else "epsilon",
        rescale_betas_zero_snr=zero_snr,
    )
    return DiffusersHost(unet=unet, vae=vae, encoders=encoders, scheduler=scheduler)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hooks_on(host: DiffusersHost) -> int:
    """Forward and backward hooks of any kind that stand on the networks of a host."""
    networks = [host.unet, host.vae, *(e.model for e in host._encoders)]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, k)) for network in networks for m in network.modules() for k in kinds)


def snapshot(host: DiffusersHost) -> dict[str, Any]:
    """Everything about the networks that a run must leave alone."""
    kept: dict[str, Any] = {"hooks": hooks_on(host)}
    networks = {"unet": host.unet, "vae": host.vae}
    networks |= {e.name: e.model for e in host._encoders}
    for name, network in networks.items():
        kept[f"{name} order"] = [n for n, _ in network.named_parameters()]
        kept[f"{name} classes"] = [type(m) for m in network.modules()]
        kept[f"{name} training"] = [m.training for m in network.modules()]
        kept[f"{name} flags"] = [p.requires_grad for p in network.parameters()]
        kept[f"{name} objects"] = [id(p) for p in network.parameters()]
        kept[f"{name} values"] = [p.detach().clone() for p in network.parameters()]
    kept["checkpointing"] = host.unet.is_gradient_checkpointing
    return kept


def assert_unchanged(before: dict[str, Any], host: DiffusersHost) -> None:
    after = snapshot(host)
    for name, value in before.items():
        if name.endswith("values"):
            same = zip(value, after[name], strict=True)
            assert all(torch.equal(a, b) for a, b in same), name
        else:
            assert value == after[name], name
