"""Sizes of a tiny transformer, in the words of diffusers, of transformers and of ComfyUI."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FAMILIES = ("anima", "zimage")
HEAD = 128  # channels of a head of Qwen3; ComfyUI's class has this number built in
LONGEST = 512  # positions along an axis


@dataclass(frozen=True, kw_only=True, slots=True)
class DitConfig:
    """Every size of the model; travels in the checkpoint's metadata.

    Attributes:
        family:        "anima" (cross-attention) or "zimage" (one stream).
        scaling:       latents times this have about unit variance.
        layers:        blocks of the transformer; Z-Image's refiners come on top.
        refiners:      blocks of Z-Image that see only the picture, and as many only the text.
        rank:          of Anima's modulation by time.
        text_layers:   of the encoder that are used; Z-Image's has one more, which nobody reads.
        adapter_layers: of Anima's adapter, which reads T5's tokens and looks at Qwen's states.
        shift:         of the noise levels, in training and drawing.
    """

    family: str
    resolution_px: int = 128
    downscale: int = 8
    latent_channels: int = 16
    scaling: float = 1.0
    patch: int = 2
    width: int
    heads: int
    layers: int
    refiners: int = 1
    rank: int = 32
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 2
    adapter_layers: int = 2
    adapter_heads: int = 3
    shift: float = 3.0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is none of {', '.join(FAMILIES)}")
        if self.text_layers < 2:
            raise ValueError("ComfyUI reads the last layer but one of at least three; use two")

    @property
    def latent_size(self) -> int:
        """Latents along one side of a training picture."""
        return self.resolution_px // self.downscale

    @property
    def tokens_side(self) -> int:
        """Image tokens along one side of a training picture."""
        return self.latent_size // self.patch

    @property
    def all_text_layers(self) -> int:
        """Layers that the text encoder has, used or not."""
        return self.text_layers + (self.family == "zimage")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DitConfig:
        """The config that `to_dict` wrote; an unknown key raises TypeError."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def text_dict(self) -> dict[str, Any]:
        """Sizes of the Qwen3 encoder, in words that transformers and ComfyUI share."""
        return {
            "hidden_size": self.text_width,
            "intermediate_size": 2 * self.text_width,
            "num_hidden_layers": self.all_text_layers,
            "num_attention_heads": self.text_heads,
            "num_key_value_heads": 1,
        }

    def adapter_dict(self) -> dict[str, Any]:
        """Sizes of Anima's adapter that both hosts call alike."""
        width = self.text_width
        return {
            "source_dim": width,
            "target_dim": width,
            "model_dim": width,
            "num_layers": self.adapter_layers,
        }

    def diffusers_dict(self) -> dict[str, Any]:
        """Arguments of CosmosTransformer3DModel or ZImageTransformer2DModel."""
        if self.family == "anima":
            return {
                "in_channels": self.latent_channels,
                "out_channels": self.latent_channels,
                "num_attention_heads": self.heads,
                "attention_head_dim": self.width // self.heads,
                "num_layers": self.layers,
                "text_embed_dim": self.text_width,
                "adaln_lora_dim": self.rank,
                "max_size": (128, 240, 240),
                "patch_size": (1, self.patch, self.patch),
                "rope_scale": (1.0, 4.0, 4.0),
                "concat_padding_mask": True,
                "extra_pos_embed_type": None,
            }
        return {
            "all_patch_size": (self.patch,),
            "in_channels": self.latent_channels,
            "dim": self.width,
            "n_layers": self.layers,
            "n_refiner_layers": self.refiners,
            "n_heads": self.heads,
            "n_kv_heads": self.heads,
            "cap_feat_dim": self.text_width,
            "axes_dims": self._axes(),
            "axes_lens": [LONGEST] * 3,
        }

    def comfyui_dict(self) -> dict[str, Any]:
        """Arguments of ComfyUI's Anima or NextDiT; other sizes are those of the full models."""
        if self.family == "anima":
            return {
                "image_model": "anima",
                "max_img_h": 240,
                "max_img_w": 240,
                "max_frames": 128,
                "in_channels": self.latent_channels,
                "out_channels": self.latent_channels,
                "patch_spatial": self.patch,
                "patch_temporal": 1,
                "model_channels": self.width,
                "concat_padding_mask": True,
                "crossattn_emb_channels": self.text_width,
                "pos_emb_cls": "rope3d",
                "pos_emb_learnable": True,
                "pos_emb_interpolation": "crop",
                "min_fps": 1,
                "max_fps": 30,
                "use_adaln_lora": True,
                "adaln_lora_dim": self.rank,
                "num_blocks": self.layers,
                "num_heads": self.heads,
                "extra_per_block_abs_pos_emb": False,
                "rope_h_extrapolation_ratio": 4.0,
                "rope_w_extrapolation_ratio": 4.0,
                "rope_t_extrapolation_ratio": 1.0,
                "extra_h_extrapolation_ratio": 1.0,
                "extra_w_extrapolation_ratio": 1.0,
                "extra_t_extrapolation_ratio": 1.0,
                "rope_enable_fps_modulation": False,
            }
        return {
            "image_model": "lumina2",
            "patch_size": self.patch,
            "in_channels": self.latent_channels,
            "dim": self.width,
            "cap_feat_dim": self.text_width,
            "n_layers": self.layers,
            "n_refiner_layers": self.refiners,
            "qk_norm": True,
            "n_heads": self.heads,
            "n_kv_heads": self.heads,
            "axes_dims": self._axes(),
            "axes_lens": [LONGEST] * 3,
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8.0 / 3.0,
            "multiple_of": 1,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        }

    def _axes(self) -> list[int]:
        """Channels of a head that turn with the place in the text, the row and the column."""
        head = self.width // self.heads
        text = head // 8 * 2
        return [text, (head - text) // 2, (head - text) // 2]


SIZES = {
    "anima": DitConfig(family="anima", width=192, heads=6, layers=6),
    "zimage": DitConfig(family="zimage", width=256, heads=4, layers=2, text_width=64, text_heads=1),
}
