"""CLIP and DINO with random weights, as transformers saves the large ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
