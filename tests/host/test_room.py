"""Room for networks that ComfyUI does not know of."""

from __future__ import annotations

import comfy.model_management as management
import torch

from conceptloom.host.comfyui.memory import free_vram
from conceptloom.host.comfyui.tinyworld import load_tinyworld


def test_models_of_the_host_go_for_what_comes():
    model = load_tinyworld()[0]
    with torch.inference_mode():
        management.load_models_gpu([model])
    device = management.get_torch_device()
    loaded = [held.model for held in management.current_loaded_models]
    assert any(held is model for held in loaded)
    free_vram(int(management.get_total_memory(device)) * 2, device)
    assert not any(held.model is model for held in management.current_loaded_models)


def test_with_room_enough_nothing_goes():
    model = load_tinyworld()[0]
    with torch.inference_mode():
        management.load_models_gpu([model])
    free_vram(1, management.get_torch_device())
    assert any(held.model is model for held in management.current_loaded_models)
