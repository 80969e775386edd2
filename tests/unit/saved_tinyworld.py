"""TinyWorld as other programs have it."""

from __future__ import annotations

from pathlib import Path


def save_tinyworld(folder: Path) -> Path:
    """As diffusers saves a model."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from conceptloom.tinyworld.checkpoint import load_tinyworld

    world = load_tinyworld()
    pipeline = StableDiffusionPipeline(
        vae=world.vae,
        text_encoder=world.text_encoder,
        tokenizer=world.tokenizer,
        unet=world.unet,
        scheduler=DDIMScheduler.from_config(world.scheduler.config, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
