"""A diffusion prior of the real classes with random weights, small enough for a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from conceptloom.vision.offload import OffloadedModules  # noqa: E402
from conceptloom.vision.prior import DiffusionPrior  # noqa: E402
from conceptloom.vision.text_side import ClipText  # noqa: E402

from ..tiny_models import END, START, WORDS, WordTokenizer  # noqa: E402

WIDTH = 16


def tiny_text(seed: int = 0, *, legacy: bool = False) -> ClipText:
    """`legacy` has the end token's id of old configurations, by which the highest id is pooled."""
    config = transformers.CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        max_position_embeddings=24,
        bos_token_id=START,
        eos_token_id=2 if legacy else END,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = transformers.CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(seed))
    return ClipText("clip_l", model, WordTokenizer(pad=0))


def tiny_vision(seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=WIDTH,
        )
    ).eval()


def tiny_prior(seed: int = 2, **more: Any) -> DiffusionPrior:
    with torch.random.fork_rng():
        text, vision = tiny_text(seed), tiny_vision(seed + 1)
        torch.manual_seed(seed + 2)
        prior = diffusers.PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            embedding_dim=WIDTH,
            num_embeddings=24,
        ).eval()
        with torch.no_grad():
            prior.clip_std.fill_(1.5)
            prior.clip_mean.fill_(0.25)
            prior.prd_embedding.normal_()
    scheduler = diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    return DiffusionPrior(
        text=text,
        prior=prior,
        scheduler=scheduler,
        vision=vision,
        fingerprint="tiny prior",
        offloaded=OffloadedModules([text.model, prior, vision], torch.device("cpu")),
        **more,
    )
