"""The file that ships: key tables that invert, sizes that travel, a tokenizer that agrees."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from conceptloom.tinyworld import keys
from conceptloom.tinyworld.captions import caption_words
from conceptloom.tinyworld.checkpoint import (
    CHECKPOINT,
    TOKEN_TABLE,
    TOKENIZER,
    TinyWorldModules,
    load_tinyworld,
    load_tokenizer,
    pack,
    read_checkpoint,
    row_of_token,
    unpack,
    write_checkpoint,
)
from conceptloom.tinyworld.model import ModelConfig, build_text_encoder, build_unet, build_vae
from conceptloom.tinyworld.recipe.vocabulary import GUEST_WORDS, applied_merges, reduce_vocabulary
from conceptloom.tinyworld.scenes import SIZE

SMALL = ModelConfig(
    unet_channels=(32, 32, 64),
    unet_attention=(True, True, False),
    unet_layers=2,
    context_dim=32,
    vae_channels=(32, 64),
    scaling_factor=0.7,
)


@pytest.fixture(scope="module")
def world() -> TinyWorldModules:
    return load_tinyworld()


def test_bundled_files_are_small_enough() -> None:
    assert CHECKPOINT.stat().st_size <= 16e6
    assert sum(path.stat().st_size for path in CHECKPOINT.parent.rglob("*.safetensors")) <= 24e6


def test_bundled_model_has_the_sizes_that_are_built_by_default(world: TinyWorldModules) -> None:
    assert replace(world.config, scaling_factor=1.0) == ModelConfig()


def test_bundled_file_loads_frozen_and_finite(world: TinyWorldModules) -> None:
    for net in (world.unet, world.text_encoder, world.vae):
        assert not net.training
        assert all(not p.requires_grad and p.isfinite().all() for p in net.parameters())
    assert world.scheduler.config.prediction_type == world.config.prediction_type


def test_bundled_networks_fit_each_other(world: TinyWorldModules) -> None:
    ids = world.tokenizer("a photo of a red mug", padding="max_length", max_length=77)
    context = world.text_encoder(torch.tensor([ids.input_ids]))[0]
    latent = torch.zeros(1, 16, 16, 16)
    assert world.unet(latent, 500, context).sample.shape == latent.shape
    assert world.vae.decode(latent).sample.shape == (1, 3, SIZE, SIZE)


def test_key_tables_are_inverse() -> None:
    unet, vae = build_unet(SMALL).state_dict(), build_vae(SMALL).state_dict()
    back = keys.unet_from_sd1(keys.unet_to_sd1(unet, SMALL), SMALL)
    assert back.keys() == unet.keys()
    assert all(back[k] is unet[k] for k in unet)
    back = keys.vae_from_sd1(keys.vae_to_sd1(vae, SMALL), SMALL)
    assert back.keys() == vae.keys()
    assert all(torch.equal(back[k], vae[k]) for k in vae)


def test_names_are_those_of_sd1() -> None:
    config = ModelConfig()
    unet = keys.unet_to_sd1(build_unet(config).state_dict(), config)
    attention = "transformer_blocks.0.attn2.to_k.weight"
    assert f"model.diffusion_model.input_blocks.1.1.{attention}" in unet
    assert f"model.diffusion_model.middle_block.1.{attention}" in unet
    assert "model.diffusion_model.input_blocks.2.0.op.weight" in unet
    assert "model.diffusion_model.output_blocks.1.2.conv.weight" in unet
    vae = keys.vae_to_sd1(build_vae(config).state_dict(), config)
    assert vae["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    # the decoder's deepest level has the highest number
    assert vae["first_stage_model.decoder.up.3.block.0.conv1.weight"].shape[0] == 96


def test_unknown_weight_names_are_refused() -> None:
    with pytest.raises(KeyError, match=r"mystery\.weight"):
        keys.unet_to_sd1({"mystery.weight": torch.zeros(1)}, SMALL)


def test_written_file_reads_back(tmp_path: Path) -> None:
    ids, unknown = [320, 1125, 49406], 4
    text = build_text_encoder(SMALL, len(ids) + unknown)
    unet, vae = build_unet(SMALL), build_vae(SMALL)
    path = tmp_path / "small.safetensors"
    write_checkpoint(pack(unet, text, vae, SMALL, ids, unknown, {"samples": 7}), path)
    assert list(tmp_path.iterdir()) == [path]
    file = read_checkpoint(path)
    assert (file.config, file.token_ids, file.training) == (SMALL, ids, {"samples": 7})
    modules = unpack(file)
    for name, original in (("unet", unet), ("vae", vae)):
        for key, value in getattr(modules, name).state_dict().items():
            assert torch.equal(value, original.state_dict()[key].half().float()), key
    table = modules.text_encoder.get_input_embeddings().weight
    stored = text.get_input_embeddings().weight.half().float()
    assert torch.equal(table[1125], stored[1])
    assert torch.equal(table[2], stored[len(ids) + 2 % unknown])


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "lora.safetensors"
    save_file({"a": torch.zeros(1)}, str(path))
    with pytest.raises(ValueError, match="not a TinyWorld checkpoint"):
        read_checkpoint(path)


def test_token_table_has_the_full_size() -> None:
    file = read_checkpoint()
    table = file.full_weights()[TOKEN_TABLE]
    assert table.shape[0] == 49408
    assert torch.equal(table[file.token_ids[5]], file.weights[TOKEN_TABLE][5])


def test_strange_words_share_rows_by_their_id() -> None:
    rows = row_of_token([10, 20], 3)
    assert (rows[10], rows[20]) == (0, 1)
    assert rows[0] == rows[3] == 2
    assert rows[4] == 3


def test_config_survives_json() -> None:
    config = replace(SMALL, prediction_type="epsilon")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_ldm_sizes_say_the_same_as_diffusers() -> None:
    sizes = SMALL.ldm_dict()["unet"]
    assert [m * sizes["model_channels"] for m in sizes["channel_mult"]] == [32, 32, 64]
    assert sizes["transformer_depth"] == [1, 1, 1, 1, 0, 0]
    assert sizes["transformer_depth_output"] == [1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_tokenizer_speaks_clip_ids() -> None:
    # CLIP's own ids, e.g. from openai/clip-vit-large-patch14; cyan and checkered are several tokens
    text = "a photo of a red striped square and a cyan checkered circle, on the grass"
    assert load_tokenizer()(text).input_ids == [
        49406, 320, 1125, 539, 320, 736, 22192, 3999, 537, 320, 1470, 550,
        1113, 26690, 7117, 267, 525, 518, 5922, 49407,
    ]  # fmt: skip
    assert sum(f.stat().st_size for f in TOKENIZER.iterdir()) < 150_000


def test_any_prompt_tokenises() -> None:
    ids = load_tokenizer()("Zebra-striped Xylophones, 42 of them! <mug>").input_ids
    assert len(ids) > 10
    assert 49407 not in ids[:-1]


def test_trained_rows_cover_the_world() -> None:
    tokenizer, ids = load_tokenizer(), set(read_checkpoint().token_ids)
    assert {i for word in caption_words() for i in tokenizer(word).input_ids} == ids


def test_applied_merges_follow_the_ranks() -> None:
    rank = {("a", "b"): 1, ("b", "c</w>"): 0, ("a", "bc</w>"): 2}
    assert applied_merges("abc", rank) == [("b", "c</w>"), ("a", "bc</w>")]
    assert applied_merges("ca", rank) == []


def test_reduced_vocabulary_agrees_with_the_full_one(tmp_path: Path) -> None:
    """Against CLIP's full files, where a ComfyUI is at hand."""
    full = Path(os.environ.get("COMFYUI_PATH", tmp_path)) / "comfy" / "sd1_tokenizer"
    if not (full / "vocab.json").exists():
        pytest.skip("COMFYUI_PATH names no ComfyUI")
    from transformers import CLIPTokenizer

    words = [*caption_words(), *GUEST_WORDS]
    reduce_vocabulary(full, tmp_path / "reduced", words)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "reduced" / name).read_text() == (TOKENIZER / name).read_text()
    theirs, ours = CLIPTokenizer.from_pretrained(str(full), local_files_only=True), load_tokenizer()
    assert all(ours(word).input_ids == theirs(word).input_ids for word in words)
    assert ours("xylophone").input_ids != theirs("xylophone").input_ids
    table = json.loads((full / "vocab.json").read_text())
    ids = json.loads((TOKENIZER / "vocab.json").read_text())
    assert all(table[name] == index for name, index in ids.items())
