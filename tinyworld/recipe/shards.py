"""Training samples in shards: rendered, told in words, encoded, a function of seed and number.

Training draws from a window of shards that moves: a new shard joins each time that the samples of
one have been drawn `REUSE` times, the oldest leaves when there are `WINDOW`. A shard that is
missing is made again, so that the folder can be deleted or left behind on another machine.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..captions import caption_words
from ..checkpoint import load_tokenizer, row_of_token
from ..model import END_TOKEN, START_TOKEN, TOKENS
from ..planes import shrunk
from ..scenes import ITEMS, SIZE, Scene, random_scene

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

log = logging.getLogger("conceptloom")

SHARD = 2000  # samples of one shard
FIRST = 3  # shards to begin with
WINDOW = 60  # shards that are drawn from at a time
REUSE = 6  # draws of a sample before a new one joins, on average
AHEAD = 8  # shards that workers render before they are needed
UNKNOWN_ROWS = 32  # token rows shared by all words outside the world
MASK_SIDE = 16  # masks are kept this small: the finest attention map of the bundled model


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One shard, or a batch out of several.

    Attributes:
        pictures: [N, S, S, 3] uint8; after encoding latents [N, C, h, w] float16, unscaled.
        rows:     [N, 77] int16  rows of the stored token table.
        spoken:   [N, 77] uint8  0 = of nothing, i + 1 = of thing i, ITEMS + i + 1 = of its detail.
        masks:    [N, 2 ITEMS, MASK_SIDE, MASK_SIDE] uint8  places of things, then of details.
    """

    pictures: NDArray[np.generic]
    rows: NDArray[np.int16]
    spoken: NDArray[np.uint8]
    masks: NDArray[np.uint8]


def world_token_ids() -> list[int]:
    """CLIP ids of the token rows that are trained and stored, special tokens first."""
    ids = {i for word in caption_words() for i in word_ids(word)}
    return [START_TOKEN, END_TOKEN, *sorted(ids)]


@cache
def word_ids(word: str) -> tuple[int, ...]:
    """CLIP ids of one word."""
    return tuple(_tokenizer()(word, add_special_tokens=False).input_ids)


@cache
def _tokenizer() -> CLIPTokenizer:
    return load_tokenizer()


def caption_rows(scene: Scene, rows: NDArray[np.int64]) -> NDArray[np.int16]:
    """[77] rows of the stored token table; `rows` is [49408], see `row_of_token`."""
    ids = [START_TOKEN, *(i for word in scene.words for i in word_ids(word.text))][: TOKENS - 1]
    return rows[np.array(ids + [END_TOKEN] * (TOKENS - len(ids)))].astype(np.int16)


def spoken_of(scene: Scene) -> NDArray[np.uint8]:
    """Of what each token speaks, [77]; the coding of `Samples.spoken`."""
    codes = [0]
    for word in scene.words:
        code = word.thing + 1 + (ITEMS if word.parts else 0)
        codes += [code] * len(word_ids(word.text))
    return np.array((codes + [0] * TOKENS)[:TOKENS], np.uint8)


def small_masks(scene: Scene) -> NDArray[np.uint8]:
    """Area means of the things' masks, and of the details that the caption tells of."""
    made = np.zeros((2 * ITEMS, MASK_SIDE, MASK_SIDE), np.uint8)
    for i, mask in enumerate(scene.masks):
        made[i] = shrunk(mask, MASK_SIDE)
    for word in scene.words:
        shown = scene.parts[word.thing] if word.parts else {}
        found = [shown[part] for part in word.parts if part in shown]
        if found:
            made[ITEMS + word.thing] = shrunk(np.sum(found, axis=0), MASK_SIDE)
    return made


def render_shard(seed: int, index: int, size: int = SIZE) -> Samples:
    """The samples of shard `index`, with pictures."""
    rng = np.random.default_rng((seed, index))
    rows = row_of_token(world_token_ids(), UNKNOWN_ROWS).numpy()
    scenes = [random_scene(rng, size) for _ in range(SHARD)]
    return Samples(
        pictures=np.stack([s.image for s in scenes]),
        rows=np.stack([caption_rows(s, rows) for s in scenes]),
        spoken=np.stack([spoken_of(s) for s in scenes]),
        masks=np.stack([small_masks(s) for s in scenes]),
    )


Encode = Callable[[NDArray[np.generic]], NDArray[np.float16]]  # pictures -> latents


class Shards:
    """The shards that training draws from at the moment, in memory and in a folder.

    Args:
        folder: where encoded shards are kept.
        encode: makes latents of pictures.
        seed:   of all samples.
        begin:  samples that were drawn before, by the training that this one goes on from: it draws
                none of their shards.
        workers: processes that render ahead; 0 renders in this process when a shard is needed.
        mine:   whether this process makes shard i; others wait for its file.
    """

    def __init__(
        self,
        folder: Path,
        encode: Encode,
        seed: int,
        size: int,
        *,
        begin: int = 0,
        workers: int = 0,
        mine: Callable[[int], bool] = lambda index: True,
    ) -> None:
        self.folder, self.encode, self.seed, self.size = folder, encode, seed, size
        self.begin, self.mine = begin, mine
        self.held: dict[int, Samples] = {}
        self.pool = ProcessPoolExecutor(workers) if workers else None
        self.coming: dict[int, Future[Samples]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def window(self, drawn: int) -> range:
        """Numbers of the shards that sample number `drawn` is drawn from."""
        count = FIRST + drawn // (SHARD * REUSE)
        return range(max(self.begin // (SHARD * REUSE), count - WINDOW), count)

    def batch(self, drawn: int, size: int, rng: np.random.Generator) -> Samples:
        """Random samples out of the window."""
        window = self.window(drawn)
        self._prepare(window)
        shards = [self.held[int(i)] for i in rng.integers(window.start, window.stop, size)]
        rows = rng.integers(SHARD, size=size)

        def gathered(name: str) -> NDArray[np.generic]:
            parts = zip(shards, rows, strict=True)
            return np.stack([getattr(shard, name)[row % len(shard.rows)] for shard, row in parts])

        return Samples(**{name: gathered(name) for name in Samples.__dataclass_fields__})

    def _prepare(self, window: range) -> None:
        for old in [i for i in self.held if i not in window]:
            del self.held[old]
            if self.mine(old):
                self._path(old).unlink(missing_ok=True)
        for index in window:
            if index not in self.held:
                self.held[index] = self._made(index)

    def _made(self, index: int) -> Samples:
        path = self._path(index)
        while not path.exists():
            if self.mine(index):
                self._make(index)
            else:
                time.sleep(0.2)
        with np.load(path) as saved:
            return Samples(**{name: saved[name] for name in Samples.__dataclass_fields__})

    def _make(self, index: int) -> None:
        started = time.monotonic()
        if self.pool is None:
            shard = render_shard(self.seed, index, self.size)
        else:
            for i in range(index, index + AHEAD):
                if i not in self.coming and not self._path(i).exists():
                    self.coming[i] = self.pool.submit(render_shard, self.seed, i, self.size)
            shard = self.coming.pop(index).result()
        rendered = time.monotonic()
        temporary = self.folder / f"part{index:05d}.npz"
        latents = self.encode(shard.pictures)
        np.savez(
            temporary, pictures=latents, rows=shard.rows, spoken=shard.spoken, masks=shard.masks
        )
        os.replace(temporary, self._path(index))
        log.info(
            "shard %d: rendered in %.0f s, encoded in %.0f s",
            index,
            rendered - started,
            time.monotonic() - rendered,
        )

    def _path(self, index: int) -> Path:
        return self.folder / f"shard{index:05d}.npz"


def pictures_for_autoencoder(
    folder: Path, seed: int, size: int, workers: int = 0, count: int = FIRST
) -> list[NDArray[np.uint8]]:
    """Memory maps of the first shards' pictures [SHARD, S, S, 3]; renders what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"pictures{index:05d}.npy" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    if workers and missing:
        with ProcessPoolExecutor(min(workers, len(missing))) as pool:
            for job in [pool.submit(_save_pictures, paths[i], seed, i, size) for i in missing]:
                job.result()
    else:
        for index in missing:
            _save_pictures(paths[index], seed, index, size)
    return [np.load(path, mmap_mode="r") for path in paths]


def _save_pictures(path: Path, seed: int, index: int, size: int) -> None:
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, render_shard(seed, index, size).pictures)
    temporary.rename(path)
