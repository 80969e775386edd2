"""Sizes of TinyWorld's three networks, and how to build them with diffusers and transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

CLIP_VOCABULARY = 49408  # rows of CLIP's own token table
START_TOKEN, END_TOKEN = 49406, 49407
TOKENS = 77  # CLIP's context length; prompts are padded with END_TOKEN
# Stable Diffusion 1's schedule (CompVis v1-inference.yaml)
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Every size of the model; travels in the checkpoint's metadata."""

    resolution_px: int = 128  # side of the square pictures it was trained on
    prediction_type: str = "v_prediction"  # or "epsilon"
    scaling_factor: float = 1.0  # latents times this have unit variance
    latent_channels: int = 16
    unet_channels: tuple[int, ...] = (96, 96)  # per level, multiples of 32
    unet_attention: tuple[bool, ...] = (True, True)  # cross-attention at this level?
    unet_layers: int = 1  # ResNet blocks per level on the way down, one more on the way up
    unet_heads: int = 4
    unet_norm_groups: int = 32
    context_dim: int = 128  # width of the text encoder
    text_layers: int = 2
    text_heads: int = 4
    vae_channels: tuple[int, ...] = (32, 32, 64, 96)  # per level; one halving between two levels
    vae_layers: int = 1
    vae_norm_groups: int = 2

    @property
    def downscale(self) -> int:
        """Picture pixels per latent along one side."""
        return 2 ** (len(self.vae_channels) - 1)

    @property
    def latent_size(self) -> int:
        """Latents along one side of a training picture."""
        return self.resolution_px // self.downscale

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The config that `to_dict` wrote; an unknown key raises TypeError."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def unet_dict(self) -> dict[str, Any]:
        """Arguments of diffusers' UNet2DConditionModel."""
        down = ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in self.unet_attention]
        up = ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(self.unet_attention)]
        return {
            "sample_size": self.latent_size,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "block_out_channels": list(self.unet_channels),
            "layers_per_block": self.unet_layers,
            "down_block_types": down,
            "up_block_types": up,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "cross_attention_dim": self.context_dim,
            "attention_head_dim": self.unet_heads,  # diffusers means the number of heads here
            "norm_num_groups": self.unet_norm_groups,
            "use_linear_projection": False,
        }

    def vae_dict(self) -> dict[str, Any]:
        """Arguments of diffusers' AutoencoderKL."""
        levels = len(self.vae_channels)
        return {
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "block_out_channels": list(self.vae_channels),
            "layers_per_block": self.vae_layers,
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.vae_norm_groups,
            "sample_size": self.resolution_px,
            "scaling_factor": self.scaling_factor,
        }

    def text_dict(self, rows: int = CLIP_VOCABULARY) -> dict[str, Any]:
        """Arguments of transformers' CLIPTextConfig, for a token table of `rows` rows."""
        return {
            "vocab_size": rows,
            "hidden_size": self.context_dim,
            "intermediate_size": 4 * self.context_dim,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_heads,
            "max_position_embeddings": TOKENS,
            "hidden_act": "quick_gelu",
            "projection_dim": self.context_dim,
            "bos_token_id": min(START_TOKEN, rows - 2),
            "eos_token_id": min(END_TOKEN, rows - 1),
            "pad_token_id": min(END_TOKEN, rows - 1),
        }

    def ldm_dict(self) -> dict[str, Any]:
        """The same sizes in the words of the original SD1 code, which ComfyUI speaks too."""
        base, n = self.unet_channels[0], self.unet_layers
        depth = [int(on) for on in self.unet_attention]
        vae_base = self.vae_channels[0]
        return {
            "unet": {
                "image_size": self.latent_size,
                "in_channels": self.latent_channels,
                "out_channels": self.latent_channels,
                "model_channels": base,
                "channel_mult": [c // base for c in self.unet_channels],
                "num_res_blocks": [n] * len(depth),
                "transformer_depth": [d for d in depth for _ in range(n)],
                "transformer_depth_output": [d for d in depth for _ in range(n + 1)],
                "transformer_depth_middle": 1,
                "context_dim": self.context_dim,
                "num_heads": self.unet_heads,
                "num_head_channels": -1,
                "use_spatial_transformer": True,
                "use_linear_in_transformer": False,
                "norm_groups": self.unet_norm_groups,
            },
            "vae": {
                "embed_dim": self.latent_channels,
                "ddconfig": {
                    "double_z": True,
                    "z_channels": self.latent_channels,
                    "resolution": self.resolution_px,
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": vae_base,
                    "ch_mult": [c // vae_base for c in self.vae_channels],
                    "num_res_blocks": self.vae_layers,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
                "norm_groups": self.vae_norm_groups,
            },
            "text": {
                "hidden_size": self.context_dim,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "intermediate_size": 4 * self.context_dim,
                "max_position_embeddings": TOKENS,
                "hidden_act": "quick_gelu",
                "eos_token_id": END_TOKEN,
                "model_type": "clip_text_model",
            },
        }


def build_unet(config: ModelConfig) -> UNet2DConditionModel:
    """A freshly initialised UNet of these sizes."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**config.unet_dict())


def build_vae(config: ModelConfig) -> AutoencoderKL:
    """A freshly initialised autoencoder of these sizes."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**config.vae_dict())


def build_text_encoder(config: ModelConfig, rows: int = CLIP_VOCABULARY) -> CLIPTextModel:
    """A freshly initialised text encoder with a token table of `rows` rows."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config.text_dict(rows)))


def build_scheduler(config: ModelConfig) -> DDPMScheduler:
    """The training schedule: SD1's betas and this model's prediction type."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**SCHEDULE, clip_sample=False, prediction_type=config.prediction_type)
