"""A tiny Cosmos-Predict2 (text to image) of the real classes."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.cosmos
import torch
from anima_models import SIZES, TEXT, randomise
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.model_base import ModelType
from tiny_models import Graph

T5 = {"d_model": TEXT, "d_ff": 2 * TEXT, "d_kv": 16, "num_heads": 4, "num_layers": 2}


class TinyCosmos(comfy.model_base.CosmosPredict2):
    def __init__(self, config: Any) -> None:
        comfy.model_base.BaseModel.__init__(
            self, config, ModelType.FLOW_COSMOS, device=None, unet_model=MiniTrainDIT
        )
        self.image_to_video = False


_made: list[Graph] = []


def cosmos() -> Graph:
    """Built once, in inference mode as ComfyUI's loaders do; tests may not change it."""
    if not _made:
        with torch.inference_mode():
            _made.append(make_cosmos())
    return _made[0]


def make_cosmos() -> Graph:
    management = comfy.model_management
    config = comfy.supported_models.CosmosT2IPredict2({**SIZES, "image_model": "cosmos_predict2"})
    config.set_inference_dtype(torch.float32, None)
    model = TinyCosmos(config)
    randomise(model.diffusion_model, 3)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, management.get_torch_device(), management.unet_offload_device()
    )
    clip = comfy.sd.CLIP(
        comfy.supported_models.supported_models_base.ClipTarget(
            comfy.text_encoders.cosmos.CosmosT5Tokenizer, comfy.text_encoders.cosmos.te()
        ),
        embedding_directory=[],
        parameters=1,
        model_options={"t5xxl_model_config": T5, "dtype": torch.float32},
    )
    randomise(clip.cond_stage_model.t5xxl.transformer, 4)
    return Graph(patcher, clip, None)
