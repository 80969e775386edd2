"""CLIP, DINO and MaskFormer with random weights, as transformers saves the large ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

from conceptloom.tinyworld.checkpoint import TOKENIZER  # noqa: E402

SIDE, PATCH, WIDTH = 32, 8, 16


def save_encoders(folder: Path) -> Path:
    """`clip` and `dino` below a folder; TinyWorld's tokenizer."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    seeing = {"image_size": SIDE, "patch_size": PATCH, "hidden_size": WIDTH, **layers}
    reading = {"hidden_size": WIDTH, "bos_token_id": 49406, "eos_token_id": 49407, **layers}
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=reading, vision_config=seeing, projection_dim=8)
    )
    with torch.no_grad():  # random networks see much the same everywhere; this one tells apart
        clip.visual_projection.weight.normal_()
        clip.vision_model.embeddings.patch_embedding.weight.normal_()
    clip.save_pretrained(folder / "clip")
    transformers.CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder / "clip")
    dino = transformers.ViTModel(transformers.ViTConfig(**seeing))
    with torch.no_grad():
        dino.embeddings.patch_embeddings.projection.weight.normal_()
    dino.save_pretrained(folder / "dino")
    return folder


def save_maskformer(folder: Path) -> Path:
    """MaskFormer with three classes."""
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32
    )
    config.id2label = {0: "cat", 1: "teddy bear", 2: "wall-other"}
    transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    return folder


def picture(seed: int = 0, side: int = 64) -> Tensor:
    """[side, side, 3] of noise."""
    return torch.rand(side, side, 3, generator=torch.Generator().manual_seed(seed))


def half(side: int = 64) -> Tensor:
    """[side, side] a mask of the left half."""
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return mask
