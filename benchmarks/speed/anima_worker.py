"""The process of `speed anima` inside of ComfyUI: a random Anima that learns and draws."""

from __future__ import annotations

import gc
from argparse import Namespace as Options
from typing import Any

from harness.interleaved import tell

from .comfyui import start_comfyui
from .local_zimage_worker import PROMPT, Stages, drawn, files, fill, with_files

NETWORKS = {
    "full": {"model_channels": 2048, "num_blocks": 28, "num_heads": 16, "adaln_lora_dim": 256},
    "tiny": {"model_channels": 96, "num_blocks": 5, "num_heads": 3, "adaln_lora_dim": 16},
}
TEXT = 1024  # width of Qwen3 0.6B and of contexts; the adapter has no other size


def text_encoder() -> Any:
    """A CLIP as ComfyUI's loader makes it, but for what is in its weights."""
    import comfy.sd
    import comfy.supported_models_base
    import comfy.text_encoders.anima as anima
    import torch

    target = comfy.supported_models_base.ClipTarget(anima.AnimaTokenizer, anima.te())
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    return comfy.sd.CLIP(target, embedding_directory=[], parameters=1, model_options=options)


def transformer(sizes: dict[str, Any]) -> Any:
    """A MODEL of these sizes."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = comfy.supported_models.Anima({
        "image_model": "anima", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
        "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
        "crossattn_emb_channels": TEXT, "concat_padding_mask": True, "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "use_adaln_lora": True,
        "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
        "rope_t_extrapolation_ratio": 1.0, "extra_per_block_abs_pos_emb": False,
        "rope_enable_fps_modulation": False, **sizes,
    })  # fmt: skip
    config.set_inference_dtype(torch.bfloat16, None)
    management = comfy.model_management
    return comfy.model_patcher.ModelPatcher(
        comfy.model_base.Anima(config), management.get_torch_device(),
        management.unet_offload_device(),
    )  # fmt: skip


def trained(model: Any, clip: Any, options: Options) -> dict[str, Any]:
    """One step of Break-A-Scene's low rank with checkpointing: its loss and its gradients."""
    import torch
    import torch.nn.functional as F
    from weaver_graphs import pack

    method, phases = pack("methods.break_a_scene"), pack("training.phases")
    side = options.size
    host = pack("host.comfyui.host").ComfyHost(model, clip)
    mix = torch.randn(16, 3, generator=torch.Generator().manual_seed(9))
    host.pixels_per_latent = 8  # in place of a VAE: means of 8x8 pixels in 16 channels
    host.encode_image = lambda image: torch.einsum(
        "bchw,oc->bohw", F.avg_pool2d(image.movedim(-1, 1), 8) - 0.5, mix
    )
    picture = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(side, side)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    scene = pack("scenes.scene").make_scene([picture], {"mug": [mask]}, {"mug": "cup"})
    config = method.BreakASceneConfig(
        token_phase=phases.TokenPhase(steps=0),
        weight_phase=phases.WeightPhase(
            steps=1, scope=pack("training.adapters").Scope.LOW_RANK, rank=16
        ),
        class_images=method.ClassImages(draw=0), batch_size=1, checkpointing=True,
        resolution_px=0,
    )  # fmt: skip
    with torch.inference_mode(False):
        recipe = method.BreakAScene(host, scene, config)
        (phase,) = (p for p in recipe.phases() if p.steps)
        parameters = list(recipe.named_parameters().values())
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        with torch.enable_grad(), recipe.computing(phase):
            terms = recipe.losses(phase, torch.Generator().manual_seed(0))
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()
        optimizer.step()
    moved = [p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters]
    return {
        "loss": float(loss.detach()), "learning": sum(p.numel() for p in parameters),
        "with_gradient": sum(moved), "tensors": len(moved),
    }  # fmt: skip


def work(options: Options) -> None:
    """Learn one step and draw once, and tell what it took."""
    start_comfyui("cpu")
    import torch

    stages = Stages()
    with torch.inference_mode():
        with stages.part("text encoder: made"):
            clip = text_encoder()
            text_numbers = fill(clip.cond_stage_model)
        with stages.part("transformer: made"):
            model = transformer(NETWORKS[options.preset])
            numbers = fill(model.model.diffusion_model)
        with stages.part("one training step, low rank 16, checkpointing"):
            step = trained(model, clip, options)
        gc.collect()
        with stages.part("two files: read, applied, prompt read"):
            made = files(model.model.diffusion_model, options.rank, "blocks.")
            model, clip, rows = with_files(model, clip, made)
            conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
        found = drawn(model, conditioning, options, stages, (1,))
    tell(
        files=rows, parts=stages.rows, numbers=numbers, text_numbers=text_numbers, masks=found,
        step=step,
    )  # fmt: skip
