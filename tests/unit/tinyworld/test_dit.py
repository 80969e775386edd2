"""The tiny transformers: keys that invert, the full vocabularies' ids, the function trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ..tiny_transformers import random_file, random_networks, small

pytest.importorskip("diffusers")

from conceptloom.errors import ModelError
from conceptloom.tinyworld.captions import caption_words, text_of
from conceptloom.tinyworld.dit import checkpoint, keys
from conceptloom.tinyworld.dit.checkpoint import load_dit, read_dit, unpack
from conceptloom.tinyworld.dit.sampling import draw, encode_prompt, noise_levels, velocity
from conceptloom.tinyworld.dit.sizes import FAMILIES
from conceptloom.tinyworld.dit.tokens import (
    QWEN_IDS,
    T5_IDS,
    TEMPLATE,
    qwen_ids,
    qwen_rows,
    t5_ids,
    t5_rows,
)
from conceptloom.tinyworld.recipe import shards
from conceptloom.tinyworld.recipe.retold import Said, words_of
from conceptloom.tinyworld.recipe.shards import render_shard
from conceptloom.tinyworld.recipe.transformer_training import noise_levels as training_levels

PROMPTS = (
    "a photo of a red mug with a star, a teapot and a striped fish on the grass",
    "a cat",
    "a photo of an orange castle with a yellow window on the left, a red mug with a green star "
    "on the right and a white house with blue stripes on a plain white background",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_invert_and_are_those_diffusers_converts(family: str) -> None:
    from diffusers.loaders import single_file_utils as converters

    weights = random_networks(family).transformer.state_dict()
    named = keys.transformer_to_comfyui(weights, family)
    assert not set(named) & {name for name in weights if "attn" in name or "to_q" in name}
    back = keys.transformer_from_comfyui(named, family)
    convert = {
        "anima": converters.convert_cosmos_transformer_checkpoint_to_diffusers,
        "zimage": converters.convert_z_image_transformer_checkpoint_to_diffusers,
    }[family]
    for other in (back, convert(dict(named))):
        assert set(other) == set(weights)
        assert all(torch.equal(other[name], weights[name]) for name in weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_is_what_is_loaded(family: str, tmp_path: Path) -> None:
    networks = random_networks(family)
    world = unpack(read_dit(random_file(family, tmp_path / "world.safetensors")))
    said = [[Said(word, 0) for word in prompt.replace(",", " ,").split()] for prompt in PROMPTS]
    said.append([])
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(4, 16, 16, 16, generator=generator)
    sigma = torch.tensor([0.9, 0.3, 0.6, 0.75])
    of_t5 = None if networks.t5 is None else networks.t5.tell(said, rng)
    with torch.no_grad():
        trained, maps, spoken = networks(latent, sigma, networks.qwen.tell(said, rng), of_t5)
    contexts = [encode_prompt(world, prompt) for prompt in (*PROMPTS, "")]
    loaded = velocity(world, latent, sigma, contexts)
    assert loaded.std() > 0.1
    torch.testing.assert_close(trained, loaded, rtol=0, atol=2e-5)
    assert len(maps) == networks.config.layers
    assert maps[0].shape == (4, 64, spoken.shape[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_have_their_size_and_differ_by_prompt(family: str, tmp_path: Path) -> None:
    world = load_dit(family, random_file(family, tmp_path / "world.safetensors"))
    pictures = draw(world, PROMPTS[:2], seed=1, steps=2)
    assert pictures.shape == (2, 128, 128, 3)
    assert (pictures[0] - pictures[1]).abs().mean() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_weights_are_told_in_words(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {name: tmp_path / f"{name}.safetensors" for name in FAMILIES}
    monkeypatch.setattr(checkpoint, "CHECKPOINTS", missing)
    with pytest.raises(ModelError, match=f"still in training.*--family {family}"):
        load_dit(family)


def test_layer_that_nobody_reads_is_not_stored(tmp_path: Path) -> None:
    file = read_dit(random_file("zimage", tmp_path / "world.safetensors"))
    network = unpack(file).text_encoder
    assert len(network.layers) == 3
    assert not [name for name in file.weights if "layers.2" in name]
    assert not network.layers[2].mlp.down_proj.weight.any()
    assert set(network.norm.weight.tolist()) == {1.0}


def test_another_autoencoder_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    file = read_dit(random_file("anima", tmp_path / "world.safetensors"))
    with pytest.raises(ModelError, match="another autoencoder"):
        unpack(replace(file, autoencoder="0123"))


def test_levels_by_hand() -> None:
    # shift 3: 1, 3 * .75 / (1 + 2 * .75) = .9, 1.5 / 2 = .75, .75 / 1.5 = .5, 0
    assert noise_levels(4, 3.0).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_ids_are_those_of_the_full_vocabularies() -> None:
    # recorded from the vocabularies that ComfyUI ships
    text = "a red mug, a fish and a castle on the grass"
    assert qwen_ids(text) == [64, 2518, 51489, 11, 264, 7640, 323, 264, 32584, 389, 279, 16359]
    assert t5_ids(text) == [3, 9, 1131, 3, 12963, 6, 3, 9, 2495, 11, 3, 9, 13243, 30, 8, 5956, 1]
    around = [151644, 872, 198], [151645, 198, 151644, 77091, 198]
    assert qwen_ids("a red teapot", TEMPLATE) == [*around[0], 64, 2518, 1013, 89901, *around[1]]
    assert qwen_ids("") == [151643]
    assert t5_ids("") == [1]


def test_every_word_has_rows_of_its_own_in_both_tables() -> None:
    qwen, t5 = qwen_rows(32), t5_rows(32)
    for table, rows in ((qwen, qwen.of_all()), (t5, t5.of_all())):
        assert rows.shape == (table.total,)
        assert rows.max() == len(table) - 1
        flat = [i for ids in table.ids for i in ids]
        assert len(flat) == len(set(flat))
        assert rows[flat].tolist() == table.of(flat)
    for word in caption_words():
        text = f"a {word}".replace(" ,", ",")
        assert max(qwen.of(qwen_ids(text))) < len(qwen.ids)
        assert max(t5.of(t5_ids(text))) < len(t5.ids)
    # a word at the beginning of a prompt, or with a capital, is the same word
    assert qwen.of(qwen_ids("red")) == qwen.of(qwen_ids("a red"))[1:]
    assert qwen.of(qwen_ids("a Red")) == qwen.of(qwen_ids("a red"))
    assert (qwen.total, t5.total) == (QWEN_IDS, T5_IDS)


def test_captions_are_retold_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptloom.tinyworld.scenes import random_scene

    monkeypatch.setattr(shards, "SHARD", 12)
    shard = render_shard(5, 0)
    rng = np.random.default_rng((5, 0))
    for row, codes in zip(shard.rows, shard.spoken, strict=True):
        scene = random_scene(rng, shards.SIZE)
        words = words_of(row, codes)
        assert [word.text for word in words] == [word.text for word in scene.words]
        nouns = [word.of for word in words if word.of]
        assert nouns == [
            word.thing + 1 + (shards.ITEMS if word.parts else 0)
            for word in scene.words
            if word.thing >= 0
        ]
        assert text_of(scene.words).replace(",", " ,").split() == [word.text for word in words]


def test_small_config_travels() -> None:
    config = small("zimage")
    assert type(config).from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="none of anima, zimage"):
        type(config).from_dict({**config.to_dict(), "family": "krea"})


@pytest.mark.parametrize("family", FAMILIES)
def test_recipe_trains_and_goes_on(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.tinyworld.recipe import train

    monkeypatch.setattr(shards, "SHARD", 8)
    monkeypatch.setattr(shards, "FIRST", 1)
    monkeypatch.setitem(train.SIZES, family, small(family))
    arguments = ["--family", family, "--workdir", str(tmp_path), "--batch", "3", "--minutes"]
    train.main([*arguments, "0.001"])  # enough for one step
    first = read_dit(tmp_path / f"{family}.safetensors")
    state = torch.load(tmp_path / "diffusion_state.pt", weights_only=True)
    train.main([*arguments, str(state["figures"]["minutes"] + 0.005)])
    second = read_dit(tmp_path / f"{family}.safetensors")
    assert 0 < first.training["samples"] < second.training["samples"]
    moved = [n for n, t in first.weights.items() if not torch.equal(t, second.weights[n])]
    assert len(moved) > 0.7 * len(first.weights)  # the rest moves by less than float16 can tell
    assert unpack(second).config == second.config
    with pytest.raises(SystemExit, match="its own folder"):
        train.main([*arguments, "1", "--start"])


def test_training_levels_by_hand() -> None:
    # normal quantiles 0 and 1; sigmoid .5 and .731; shift 2: 2 s / (1 + s)
    levels = training_levels(torch.tensor([0.5, 0.8413447]), shift=2.0)
    assert levels.tolist() == pytest.approx([2 / 3, 0.844637], abs=1e-5)


def test_training_begins_at_the_variance_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of networks that begin at nothing is the mean square of noise - x_0."""
    from conceptloom.tinyworld.recipe.diffusion_training import DiffusionTask
    from conceptloom.tinyworld.recipe.loop import Team
    from conceptloom.tinyworld.recipe.transformer_training import Trainer

    monkeypatch.setattr(shards, "SHARD", 8)
    monkeypatch.setattr(shards, "FIRST", 1)
    task = DiffusionTask(
        workdir=tmp_path, minutes=1, falling=0, batch=4, learning_rate=1e-3, seed=0
    )
    trainer = Trainer(Team(), small("anima"), task)
    # latents have about unit variance, so noise - x_0 has two
    loss = trainer.loss_of(0).item()
    assert loss == pytest.approx(2.0, abs=0.25)
    assert trainer.loss_of(0).item() == loss


def test_the_port_predicts_what_drawing_does(tmp_path: Path) -> None:
    from conceptloom.host.diffusers.anima import AnimaHost

    world = load_dit("anima", random_file("anima", tmp_path / "world.safetensors"))
    host = AnimaHost(
        transformer=world.transformer,
        text_conditioner=world.adapter,
        vae=world.vae,
        text_encoder=world.text_encoder,
        tokenizer=world.tokenizer,
        t5_tokenizer=world.t5_tokenizer,
        scheduler=world.scheduler,
    )
    assert (host.latent_channels, host.pixels_per_latent) == (16, 8)
    latent = torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(2))
    sigma = torch.tensor([0.8, 0.3])
    for prompt in (PROMPTS[0], ""):
        with torch.no_grad():
            predicted = host.predict(latent, sigma, [host.encode_prompt(prompt)])
        expected = velocity(world, latent, sigma, [encode_prompt(world, prompt)] * 2)
        torch.testing.assert_close(predicted, expected, rtol=0, atol=2e-5)
    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(3))
    restored = host.decode_latent(host.encode_image(picture))
    assert restored.shape == picture.shape
