"""The tiny model of a recording, rebuilt from its stored weights, and our recipe on its draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from conceptloom.host.diffusers.prompts import TextEncoder
from conceptloom.host.diffusers.sites import canonical_unet_names
from conceptloom.methods.break_a_scene import BreakAScene, BreakASceneConfig, recipe
from conceptloom.methods.break_a_scene.dataset import UnionSample
from conceptloom.scenes.scene import make_scene

HANDLES = ("asset0", "asset1")  # the official names, without brackets
WORDS = ("mug", "cat")
PAD, START, END = "!", "<|startoftext|>", "<|endoftext|>"
VOCABULARY = [PAD, START, END, "a", "photo", "of", "and", "at", "the", "beach", *WORDS]
LATENT_SCALE, LATENT_CHANNELS = 0.18215, 4  # the constants of the official code
TABLE = "text.embeddings.token_embedding.weight"


class WordTokenizer:
    """One token a word; ids as in the recording."""

    bos_token_id, eos_token_id = 1, 2

    def __init__(self, words: Sequence[str] = VOCABULARY, pad_token_id: int = 0) -> None:
        self.words, self.pad_token_id = words, pad_token_id

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens
        split = text.lower().split()
        known = [self.words.index(word) if word in self.words else -1 for word in split]
        return {"input_ids": [i for n in known for i in ([n] if n >= 0 else [0, 0])]}


class FixedVae(nn.Module):
    """Every picture has the recorded latents."""

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            block_out_channels=(1,) * 4,
            scaling_factor=LATENT_SCALE,
            latent_channels=LATENT_CHANNELS,
        )
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # tells where it computes
        self.device, self.dtype, self.latent = latent.device, latent.dtype, latent

    def encode(self, pixels: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=self.latent))


class Recording:
    """One case of a recorded step, of Break-A-Scene's "weights", "velocity" or "tokens"."""

    def __init__(self, folder: Path, case: str, name: str = "break_a_scene_step") -> None:
        self.case = case
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            self._tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, key: str) -> Tensor:
        """A tensor of this case, float16 ones (exact) as float32."""
        tensor = self._tensors.get(f"{self.case}/{key}", self._tensors.get(key))
        assert tensor is not None, key
        return tensor.float() if tensor.dtype == torch.float16 else tensor

    def starting(self, prefix: str) -> dict[str, Tensor]:
        """What lies under a prefix, by the rest of its name."""
        names = [key for key in self._tensors if key.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def gradients(self) -> dict[str, Tensor]:
        """Those gradients that were stored whole."""
        gradients = self.starting(f"{self.case}/gradient/")
        if self.case == "tokens":  # of the table, we train the rows of the handles only
            gradients[TABLE] = gradients[TABLE][len(VOCABULARY) :]
        return gradients

    def digests(self) -> dict[str, Tensor]:
        """`digest` of the gradient of every trained parameter of UNet and text encoder."""
        if self.case == "tokens":
            return {}
        return dict(zip(sorted(self.starting("model/")), self["digests"], strict=True))


def digest(gradient: Tensor) -> Tensor:
    """Norm, and product with cos(0), cos(1), ...: an error anywhere in a tensor moves them."""
    flat = gradient.double().flatten()
    return torch.stack([flat.norm(), flat @ torch.arange(flat.numel()).double().cos()])


def tiny_host(recording: Recording, vae: nn.Module, tokenizer: WordTokenizer) -> Any:
    """The recorded UNet and text encoder behind our diffusers host."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from conceptloom.host.diffusers import DiffusersHost

    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer.words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    weights = recording.starting("model/")
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter.copy_(weights.pop(f"unet.{name}"))
        for name, parameter in text.named_parameters():
            parameter.copy_(weights.pop(f"text.{name.removeprefix('text_model.')}"))
    assert not weights
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if recording.case == "velocity" else "epsilon",
    )
    return DiffusersHost(
        unet=unet.train(),
        vae=vae,
        encoders=[TextEncoder("clip_l", text.train(), tokenizer)],
        scheduler=scheduler,
    )


def recorded_scene(recording: Recording) -> Any:
    """The scene: a grey picture and the two masks, each the smaller of two profiles."""
    masks = {
        name: [torch.minimum(rows[:, None], columns[None, :]).float() / 255]
        for name, (rows, columns) in zip(HANDLES, recording["mask_profiles"], strict=True)
    }
    picture = torch.full((512, 512, 3), 0.5)
    return make_scene([picture], masks, dict(zip(HANDLES, WORDS, strict=True)))


def recorded_recipe(
    recording: Recording, config: BreakASceneConfig, patched: pytest.MonkeyPatch
) -> BreakAScene:
    """Our recipe, which draws what the official program drew; nothing else of it is replaced."""
    order = tuple(HANDLES[i] for i in recording["order"].tolist())
    sample = UnionSample(image=0, mirrored=bool(recording["mirrored"]), names=order)
    noises = [recording["instance_noise"], recording["class_noise"]]
    class_timestep, timestep = recording["timesteps"].split(1)  # the class image came first

    drawn = iter(zip(noises, (timestep, class_timestep), strict=True))
    patched.setattr(recipe, "sample_noise", lambda *_: next(drawn))
    patched.setattr(recipe, "draw_samples", lambda *_: [sample])
    host = tiny_host(recording, FixedVae(recording["instance_sample"]), WordTokenizer())
    learner = BreakAScene(host, recorded_scene(recording), config)
    learner.class_latents = recording["class_sample"] * LATENT_SCALE
    return learner


def our_gradients(learner: BreakAScene) -> dict[str, Tensor]:
    """Gradients by the names of the recording; the handles stand below the token table."""
    paths = canonical_unet_names(learner.host.unet)
    ours = {}
    for name, parameter in learner.adapters.named().items():
        name = name.removeprefix("adapter.").removesuffix(".full")
        if name in paths:
            name = f"unet.{paths[name]}"
        assert parameter.grad is not None, name
        ours[name.replace("clip_l.text_model.", "text.")] = parameter.grad
    rows = [parameter.grad for parameter in learner.handles.parameters()]
    ours[TABLE] = torch.cat([ours[TABLE], *rows] if TABLE in ours else rows)
    return ours
