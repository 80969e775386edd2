"""Folders of tiny models, as transformers and diffusers save the large ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from conceptloom.tinyworld.checkpoint import TOKENIZER  # noqa: E402

from .tiny_prior import tiny_vision  # noqa: E402

CPU = torch.device("cpu")
WIDTH = 16
WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    "<image>",
    *["what", "kind", "of", "pet", "is", "in", "this", "photo", "a", "dog", "cat"],
]


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(WORDS))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


FLAN_T5 = {
    "model_type": "t5",
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
OPT = {
    "model_type": "opt",
    "hidden_size": 8,
    "word_embed_proj_dim": 8,
    "ffn_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def save_blip2(folder: Path, language: dict[str, Any] = FLAN_T5) -> Path:
    """BLIP-2 with the classes of either language model, some 30,000 weights."""
    small = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = transformers.Blip2Config(
        vision_config={**small, "intermediate_size": 16, "image_size": 16, "patch_size": 8},
        qformer_config={
            **small,
            "intermediate_size": 16,
            "encoder_hidden_size": 8,
            "vocab_size": 20,
            "max_position_embeddings": 16,
        },
        text_config={**language, "vocab_size": 24, "pad_token_id": 0, "eos_token_id": 1},
        num_query_tokens=4,
        image_token_index=3,
    )
    torch.manual_seed(0)
    model = transformers.Blip2ForConditionalGeneration(config)
    with torch.no_grad():  # drawn at 1e-10, which is nothing in half precision
        for weight in model.vision_model.parameters():
            weight.normal_(std=0.2)
    model.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.Blip2Processor(
        transformers.BlipImageProcessor(size=size), word_tokenizer(), num_query_tokens=4
    ).save_pretrained(folder)
    return folder


def save_prior(folder: Path, kind: str = "KandinskyV22PriorPipeline") -> Path:
    """PriorTransformer, text and image encoder, scheduler; TinyWorld's tokenizer."""
    torch.manual_seed(3)
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=WIDTH
    )
    with torch.no_grad():
        prior.clip_std.fill_(1.5)
        prior.clip_mean.fill_(0.25)
        prior.prd_embedding.normal_()
    prior.save_pretrained(folder / "prior")
    transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=WIDTH,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    ).save_pretrained(folder / "text_encoder")
    transformers.CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder / "tokenizer")
    diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    ).save_pretrained(folder / "scheduler")
    tiny_vision().save_pretrained(folder / "image_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return folder


def save_decoder_22(folder: Path, width: int = WIDTH) -> Path:
    """Kandinsky 2.2's decoder."""
    torch.manual_seed(4)
    unet = _tiny_unet(
        addition_embed_type="image",
        encoder_hid_dim=width,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
    )
    diffusers.KandinskyV22Pipeline(
        unet=unet, scheduler=_decoder_scheduler(), movq=_tiny_movq()
    ).save_pretrained(folder)
    return folder


def save_decoder_21(folder: Path) -> Path:
    """Kandinsky 2.1's decoder with its multilingual text encoder."""
    torch.manual_seed(4)
    unet = _tiny_unet(
        addition_embed_type="text_image",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=8,  # of the text encoder's states
        encoder_hid_dim_type="text_image_proj",
        cross_attention_dim=WIDTH,
    )
    model, _ = tiny_mclip()
    words = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words += [(f"\u2581{word}", -1.0) for word in ("a", "photo", "of", "pet", "cat", "dog")]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=[*words, ("<mask>", 0.0)])
    diffusers.KandinskyPipeline(
        text_encoder=model,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_decoder_scheduler(),
        movq=_tiny_movq(),
    ).save_pretrained(folder)
    return folder


def _tiny_unet(**kind: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 32),
        layers_per_block=1,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
        **kind,
    )


def _tiny_movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        latent_channels=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


def _decoder_scheduler() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False
    )


class Padded:
    """A tokenizer of one id a word for the multilingual encoder."""

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> Any:
        rows = [[3 + len(word) for word in text.split()] for text in texts]
        ids = torch.ones(len(texts), max_length, dtype=torch.long)
        mask = torch.zeros(len(texts), max_length, dtype=torch.long)
        for row, words in enumerate(rows):
            ids[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = 1
        return transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask})


def tiny_mclip() -> tuple[Any, Any]:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(5)
    config = MCLIPConfig(
        transformerDimSize=8,
        imageDimSize=16,
        vocab_size=100,
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=90,
        pad_token_id=1,
    )
    return MultilingualCLIP(config).eval(), Padded()
