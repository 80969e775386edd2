"""Training samples: a function of seed and number, told and placed as the scenes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("diffusers")

from conceptloom.tinyworld.checkpoint import load_tokenizer, read_checkpoint, row_of_token
from conceptloom.tinyworld.model import TOKENS
from conceptloom.tinyworld.recipe import shards, vae_training
from conceptloom.tinyworld.recipe.diffusion_training import DiffusionTask, Trainer
from conceptloom.tinyworld.recipe.loop import Team
from conceptloom.tinyworld.recipe.shards import (
    MASK_SIDE,
    UNKNOWN_ROWS,
    Shards,
    caption_rows,
    render_shard,
    small_masks,
    spoken_of,
    world_token_ids,
)
from conceptloom.tinyworld.recipe.train import DEFAULTS, main, parser
from conceptloom.tinyworld.scenes import ITEMS, random_scene

TINY = ["--size", "64", "--unet-channels", "32", "32", "--batch", "2", "--falling", "0"]


def halved(pictures: NDArray[np.generic]) -> NDArray[np.float16]:
    """Stands for an encoder."""
    return pictures[:, None, ::8, ::8, 0].astype(np.float16) / 2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SHARD", 4), ("FIRST", 2), ("WINDOW", 3), ("REUSE", 2)):
        monkeypatch.setattr(shards, name, value)
    monkeypatch.setattr(vae_training, "HELD_OUT", 2)


def test_rows_are_those_of_the_whole_caption() -> None:
    """Word by word gives what the tokenizer gives for the sentence."""
    rng, tokenizer = np.random.default_rng(5), load_tokenizer()
    rows = row_of_token(world_token_ids(), UNKNOWN_ROWS).numpy()
    for _ in range(80):
        scene = random_scene(rng, 16)
        ids = tokenizer(scene.caption, padding="max_length", max_length=TOKENS).input_ids
        found = caption_rows(scene, rows)
        assert np.array_equal(found, rows[np.array(ids)])
        assert found.max() < len(world_token_ids())  # no word is unknown


def test_tokens_speak_of_what_their_words_speak_of() -> None:
    rng, tokenizer = np.random.default_rng(6), load_tokenizer()
    details = 0
    for _ in range(60):
        scene = random_scene(rng, 16)
        spoken, ids = spoken_of(scene), np.array(tokenizer(scene.caption).input_ids)
        for number in range(len(scene.things)):
            for code in (number + 1, ITEMS + number + 1):
                text = tokenizer.decode(ids[np.flatnonzero(spoken == code)]).replace(" ", "")
                of = [
                    w for w in scene.words if w.thing == number and bool(w.parts) == (code > ITEMS)
                ]
                assert text == "".join(w.text for w in of)
                details += bool(text) and code > ITEMS
        assert (spoken[len(ids) :] == 0).all()
    assert details > 10


def test_small_masks_keep_the_area_and_know_the_details() -> None:
    rng, details = np.random.default_rng(2), 0
    for _ in range(30):
        scene = random_scene(rng)
        small = small_masks(scene) / 255
        count = len(scene.things)
        assert small.shape == (2 * ITEMS, MASK_SIDE, MASK_SIDE)
        if count:
            expected = scene.masks.mean((1, 2))
            assert small[:count].mean((1, 2)) == pytest.approx(expected, abs=2e-3)
        for i in range(count):
            told = [w for w in scene.words if w.thing == i and w.parts]
            detail = small[ITEMS + i]
            assert bool(told) == bool(detail.sum() > 0)
            assert (detail <= small[i] + 5e-3).all()
            details += bool(told)
        assert small[count:ITEMS].sum() == 0
    assert details > 8


def test_a_shard_is_a_function_of_seed_and_number(small: None) -> None:
    a, b, other = render_shard(3, 1, 32), render_shard(3, 1, 32), render_shard(3, 2, 32)
    assert a.pictures.shape == (4, 32, 32, 3)
    for name in ("pictures", "rows", "spoken", "masks"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.pictures, other.pictures)


def test_the_window_moves_and_old_shards_leave(small: None, tmp_path: Path) -> None:
    pool = Shards(tmp_path, halved, 0, 32)
    # two shards at first, one more after 4 * 2 samples, at most three
    assert [list(pool.window(n)) for n in (0, 7, 8, 16, 24)] == [
        [0, 1], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4],
    ]  # fmt: skip
    batch = pool.batch(0, 5, np.random.default_rng(0))
    assert batch.pictures.shape == (5, 1, 4, 4)
    assert batch.rows.shape == batch.spoken.shape == (5, TOKENS)
    pool.batch(24, 5, np.random.default_rng(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"shard{i:05d}.npz" for i in (2, 3, 4)
    ]


def test_a_run_with_earlier_samples_draws_none_of_their_shards(small: None, tmp_path: Path) -> None:
    pool = Shards(tmp_path, halved, 0, 32, begin=17)
    assert list(pool.window(17)) == [2, 3]
    assert list(pool.window(40)) == [4, 5, 6]


def test_deleted_shards_come_back_the_same(small: None, tmp_path: Path) -> None:
    first = Shards(tmp_path, halved, 0, 32).batch(0, 6, np.random.default_rng(0))
    for path in tmp_path.iterdir():
        path.unlink()
    again = Shards(tmp_path, halved, 0, 32, workers=1).batch(0, 6, np.random.default_rng(0))
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.spoken, again.spoken)


@pytest.fixture
def trained(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder after seconds of both trainings."""
    monkeypatch.setattr(shards, "SHARD", 16)
    main([*TINY, "--workdir", str(tmp_path / "run"), "--minutes", "0.06", "--vae-minutes", "0.03"])
    return tmp_path / "run"


def test_the_command_makes_a_checkpoint_and_goes_on(trained: Path) -> None:
    first = read_checkpoint(trained / "tinyworld.safetensors")
    assert first.config.latent_channels == 16
    assert first.config.resolution_px // first.config.latent_size == 8
    assert first.training["samples"] > 0
    assert first.token_ids == world_token_ids()
    main([*TINY, "--workdir", str(trained), "--minutes", "0.1", "--vae-minutes", "0.03"])
    then = read_checkpoint(trained / "tinyworld.safetensors").training
    assert then["samples"] > first.training["samples"]


def test_the_command_begins_with_a_landed_checkpoint(trained: Path, tmp_path: Path) -> None:
    start = trained / "tinyworld.safetensors"
    first = read_checkpoint(start)
    other = str(tmp_path / "other")
    main(["--workdir", other, "--minutes", "0.04", "--batch", "2", "--start", str(start)])
    then = read_checkpoint(tmp_path / "other" / "tinyworld.safetensors")
    assert then.config == first.config
    assert then.training["samples"] > first.training["samples"]
    assert then.training["autoencoder_psnr"] == first.training["autoencoder_psnr"]


def test_a_step_is_the_same_after_a_restart(trained: Path) -> None:
    file = read_checkpoint(trained / "tinyworld.safetensors")
    task = DiffusionTask(
        workdir=trained, minutes=1, falling=0, batch=2, learning_rate=1e-3, seed=0,
        start=trained / "tinyworld.safetensors",
    )  # fmt: skip
    losses = [Trainer(Team(), file.config, task).loss_of(3).item() for _ in range(2)]
    assert losses[0] == losses[1] > 0


def test_a_gpu_gets_a_larger_model_in_nine_minutes() -> None:
    args = parser().parse_args(["--minutes", "9", "--device", "cuda"])
    assert (args.minutes, args.device, args.unet_channels) == (9, "cuda", None)
    cpu, cuda = DEFAULTS["cpu"], DEFAULTS["cuda"]
    assert cuda.minutes == 9
    assert np.prod(cuda.unet_channels) >= 3 * np.prod(cpu.unet_channels)
    assert cuda.vae_minutes + cuda.falling < 9
