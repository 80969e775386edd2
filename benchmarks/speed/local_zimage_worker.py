"""The process of `speed local_zimage` inside of ComfyUI: a random Z-Image, loader and sampler."""

from __future__ import annotations

import gc
import time
from argparse import Namespace as Options
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.interleaved import tell
from harness.machine import memory

from .comfyui import start_comfyui

PROMPT = "a photo of a red mug beside a black cat on a beach"
WORDS = {"kohya": "red mug", "PEFT": "black cat"}
POOL = 2**22  # random numbers that all weights are filled with
NETWORKS = {
    "full": {"dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30,
             "axes_dims": [32, 48, 48], "cap_feat_dim": 2560},
    "tiny": {"dim": 256, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4,
             "axes_dims": [16, 24, 24], "cap_feat_dim": 48},
}  # fmt: skip
TINY_TEXT = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip


class Stages:
    """Seconds and peak memory of each part."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        memory("cpu", start=True)
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.rows.append({"part": name, "seconds": seconds, "peak": memory("cpu")})


def fill(module: Any) -> int:
    """Random weights in place; how many numbers they are."""
    import torch

    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0)).bfloat16()
    count = 0
    for weight in module.parameters():
        count += weight.numel()
        if weight.ndim < 2:
            weight.data.fill_(1.0)
            continue
        scale = weight[0].numel() ** -0.5
        for part in weight.data.view(-1).split(POOL):
            torch.mul(pool[: len(part)], scale, out=part)
    return count


def text_encoder(sizes: dict[str, Any]) -> Any:
    """A CLIP as ComfyUI's loader makes it, but for what is in its weights."""
    import comfy.sd
    import comfy.supported_models_base
    import torch
    from comfy.text_encoders.z_image import ZImageTEModel, ZImageTokenizer

    target = comfy.supported_models_base.ClipTarget(ZImageTokenizer, ZImageTEModel)
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if sizes:
        options["qwen3_4b_model_config"] = sizes
    return comfy.sd.CLIP(target, embedding_directory=[], parameters=1, model_options=options)


def transformer(sizes: dict[str, Any]) -> Any:
    """A MODEL of these sizes."""
    import comfy.ldm.lumina.model
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = comfy.supported_models.ZImage({
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "qk_norm": True,
        "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32, **sizes,
        **({} if sizes["dim"] == 3840 else {"multiple_of": 1}),
    })  # fmt: skip
    config.set_inference_dtype(torch.bfloat16, None)

    class Lumina2(comfy.model_base.Lumina2):
        def __init__(self) -> None:
            comfy.model_base.BaseModel.__init__(
                self, config, comfy.model_base.ModelType.FLOW,
                unet_model=comfy.ldm.lumina.model.NextDiT,
            )  # fmt: skip
            self.memory_usage_factor_conds = ("ref_latents",)

    management = comfy.model_management
    return comfy.model_patcher.ModelPatcher(
        Lumina2(), management.get_torch_device(), management.unet_offload_device()
    )


def files(network: Any, rank: int, blocks: str = "layers.") -> dict[str, dict[str, Any]]:
    """Layout -> tensors on every linear layer of the main blocks, as its program names them."""
    import torch

    made: dict[str, dict[str, Any]] = {"kohya": {}, "PEFT": {}}
    generator = torch.Generator().manual_seed(1)

    def factors(rows: int, columns: int) -> tuple[Any, Any]:
        up = 0.1 * torch.randn(rows, rank, generator=generator)
        return up.half(), (torch.randn(rank, columns, generator=generator) * columns**-0.5).half()

    for name, module in network.named_modules():
        if not name.startswith(blocks) or not isinstance(module, torch.nn.Linear):
            continue
        rows, columns = module.weight.shape
        if "_modulation" in name:
            continue
        start = f"lora_unet_{name.replace('.', '_')}"
        up, down = factors(rows, columns)
        made["kohya"] |= {
            f"{start}.lora_up.weight": up, f"{start}.lora_down.weight": down,
            f"{start}.alpha": torch.tensor(float(rank)),
        }  # fmt: skip
        parts = {name: rows}
        if name.endswith(".qkv"):
            parts = {name.replace("qkv", f"to_{one}"): rows // 3 for one in "qkv"}
        for part, height in parts.items():
            up, down = factors(height, columns)
            peft = f"diffusion_model.{part.replace('attention.out', 'attention.to_out.0')}"
            made["PEFT"] |= {f"{peft}.lora_B.weight": up, f"{peft}.lora_A.weight": down}
    return made


def work(options: Options) -> None:
    """Draw once, and tell what it took."""
    start_comfyui("cpu")
    import comfy.model_management
    import torch
    from weaver_graphs import pack

    stages, sizes = Stages(), NETWORKS[options.preset]
    texts: dict[str, Any] = {} if options.preset == "full" else TINY_TEXT
    with torch.inference_mode():
        with stages.part("text encoder: made, prompt read"):
            clip = text_encoder(texts)
            text_numbers = fill(clip.cond_stage_model)
            clip = pack("host.comfyui.texts").telling_clip(clip)
            conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
        assert conditioning[0][0].isfinite().all()
        # Its loader needs a tokenizer from now on; the network behind that is a small one.
        comfy.model_management.unload_all_models()
        del clip
        gc.collect()
        clip = text_encoder(TINY_TEXT)
        with stages.part("transformer: made"):
            model = transformer(sizes)
            numbers = fill(model.model.diffusion_model)
        with stages.part("two files: read, applied"):
            made = files(model.model.diffusion_model, options.rank)
            model, _, rows = with_files(model, clip, made)
        found = drawn(model, conditioning, options, stages)
    tell(files=rows, parts=stages.rows, numbers=numbers, text_numbers=text_numbers, masks=found)


def with_files(model: Any, clip: Any, made: dict[str, dict[str, Any]]) -> tuple[Any, Any, Any]:
    """MODEL and CLIP with a localised LoRA of each file, and what the files hold."""
    import folder_paths
    from safetensors.torch import save_file
    from weaver_graphs import pack

    node, rows = pack("nodes.local_lora").LoadLoraLocalized, []
    place = Path(folder_paths.get_folder_paths("loras")[0])
    place.mkdir(parents=True, exist_ok=True)
    for layout, tensors in made.items():
        save_file(tensors, place / f"{layout}.safetensors")
        folder_paths.filename_list_cache.clear()
        rows.append(file_row(model, clip, layout, tensors))
        model, clip, _ = node.execute(
            model, clip, f"{layout}.safetensors", WORDS[layout], 1.0, 1.0,
            mask_means="exactly here", found_after=0.2, threshold=0.45, grow=0.06, end=1.0,
        ).args  # fmt: skip
    return model, clip, rows


def file_row(model: Any, clip: Any, layout: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """What a file holds, and how much of it has a place."""
    from weaver_graphs import pack

    host = pack("host.comfyui.host").ComfyHost(model, clip, applies_only=True)
    file = pack("attention.local_setup").lora_for(host, tensors, layout)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    return {
        "layout": layout, "keys": len(tensors), "lost": len(file.unmatched),
        "weights": len(file.unet), "megabytes": size / 2**20,
    }  # fmt: skip


def drawn(
    model: Any, conditioning: Any, options: Options, stages: Stages, axes: tuple[int, ...] = ()
) -> int:
    """Regions that were found in a run of ComfyUI's own sampler.

    Args:
        axes: of latents, between channels and height.
    """
    import comfy.samplers
    import torch

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    side = options.size // 8
    shape = (1, 16, *axes, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", options.steps)
    times = [time.perf_counter()]
    with stages.part(f"{options.steps} steps with both LoRAs"):
        latent = guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas,
            callback=lambda *_: times.append(time.perf_counter()), disable_pbar=True, seed=0,
        )  # fmt: skip
    assert bool(latent.isfinite().all())
    last = {"part": "the last of them", "seconds": times[-1] - times[-2]}
    stages.rows.append({**last, "peak": stages.rows[-1]["peak"]})
    record = model.get_attachment("conceptloom.local_masks")
    masks = record.masks
    if masks is None:
        return 0
    share = (masks > 0.5).float().mean((0, 2, 3))  # a region is neither nothing nor everything
    return int(((share > 0) & (share < 1)).sum())
