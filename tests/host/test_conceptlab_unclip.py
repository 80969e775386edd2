"""An invented name through ComfyUI's own unCLIP: embedding, conditioning, KSampler."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import tiny_models
import torch
from comfy import supported_models
from comfy.model_base import ModelType
from executor import Executor, Result, given, node
from tiny_models import assert_same_state, graph_of, state_of

sys.path.append(str(Path(__file__).parents[1]))

pytest.importorskip("diffusers")

from unit.vision.tiny_files import WIDTH, save_prior


class TinyUnclip(supported_models.SD21UnclipL):
    """SD 2.1 unCLIP-L with room for the tiny prior's embeddings."""

    unet_extra_config = {"attn_precision": torch.float32}  # noqa: RUF012
    noise_aug_config = {  # noqa: RUF012
        "noise_schedule_config": {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"},
        "timestep_dim": WIDTH,
    }

    def model_type(self, state_dict: Any, prefix: str = "") -> ModelType:
        return ModelType.V_PREDICTION


SIZES = tiny_models.SD2_UNET | {"num_classes": "sequential", "adm_in_channels": 2 * WIDTH}


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> None:
    known = dict(folder_paths.folder_names_and_paths)
    known["diffusion_priors"] = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    _, _, tokenizer, text_model = tiny_models.FAMILIES["sd2"]
    family = (TinyUnclip, SIZES, tokenizer, text_model)
    monkeypatch.setitem(tiny_models.FAMILIES, "unclip", family)
    with torch.inference_mode(False):
        save_prior(tmp_path / "prior")


def drawn(executor: Executor, prompt: str, seed: int = 3) -> Result:
    models = graph_of("unclip")
    graph = {
        "1": node(
            "LoadDiffusionPrior",
            prior="prior",
            decoder="none",
            precision="full",
            steps=1,
            cfg=1.0,
            size=64,
        ),
        "2": node(
            "GenerateWithPrior",
            prior=["1", 0],
            prompt=prompt,
            seed=seed,
            count=1,
            prior_steps=2,
            prior_guidance=2.0,
        ),
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": given("clip"), "text": ""}},
        "4": {
            "class_type": "unCLIPConditioning",
            "inputs": {
                "conditioning": ["3", 0],
                "clip_vision_output": ["2", 1],
                "strength": 1.0,
                "noise_augmentation": 0.0,
            },
        },
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": given("model"),
                "positive": ["4", 0],
                "negative": ["3", 0],
                "latent_image": given("latent"),
                "seed": 1,
                "steps": 2,
                "cfg": 3.0,
                "sampler_name": "ddim",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
    }
    values = {
        "model": models.model,
        "clip": models.clip,
        "latent": {"samples": torch.zeros(1, 4, 8, 8)},
    }
    return executor.run(graph, values, latent=["5", 0], images=["2", 0])


def test_the_priors_embedding_steers_an_unclip_checkpoint(executor: Executor):
    before = state_of(graph_of("unclip").model)
    pet, same, city = (
        drawn(executor, words) for words in ("a pet", "a pet", "a photo of a city at night")
    )
    assert (pet.error, city.error) == ("", "")
    first, again, other = (one.values["latent"]["samples"] for one in (pet, same, city))
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 1e-3
    assert_same_state(graph_of("unclip").model, before)


def test_without_a_decoder_the_node_still_gives_the_embedding(executor: Executor):
    assert not drawn(executor, "a pet").values["images"].any()
