"""Training samples on disk: pictures, masks and captions, rendered once, read as memory maps."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import vocabulary
from .model import END_TOKEN, START_TOKEN, TOKENS
from .shapes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES
from .world import RADII, Scene, random_scene

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

log = logging.getLogger("conceptloom")

SHARD = 2000  # samples per file
UNKNOWN_ROWS = 32  # token rows shared by all words outside the world
MASK_SIDE = 16  # masks are kept this small: the finest attention map of the bundled model
ITEMS = max(RADII)  # masks per scene; a scene with fewer items has empty ones


def world_words() -> list[str]:
    """Every word a caption can hold."""
    phrases = " ".join(BACKGROUNDS.values()).split()
    return sorted({*vocabulary.PROMPT_WORDS, *COLOURS, *SHAPES, *TEXTURES, *phrases})


def world_token_ids() -> list[int]:
    """CLIP ids of the token rows that are trained and stored, special tokens first."""
    from .checkpoint import load_tokenizer

    tokenizer = load_tokenizer()
    ids = {i for word in world_words() for i in tokenizer(word, add_special_tokens=False).input_ids}
    return [START_TOKEN, END_TOKEN, *sorted(ids)]


def caption_rows(captions: list[str], rows: NDArray[np.int64]) -> NDArray[np.int16]:
    """[N, 77] rows of the stored token table; `rows` is [49408], see `row_of_token`."""
    from .checkpoint import load_tokenizer

    encoded = load_tokenizer()(captions, padding="max_length", max_length=TOKENS, truncation=True)
    return rows[np.array(encoded.input_ids)].astype(np.int16)


def item_words(scene: Scene, tokenizer: CLIPTokenizer) -> NDArray[np.uint8]:
    """Which words of the caption speak of which item: [77], 0 = none, i + 1 = item i, by token.

    An item's words end with its shape (or "object", "toy", ...) and begin after the article.
    """
    words = scene.caption.replace(",", " ,").split()
    lengths = [len(tokenizer(w, add_special_tokens=False).input_ids) for w in words]
    starts = 1 + np.cumsum([0, *lengths])  # the start token comes first
    item_of = np.zeros(TOKENS, np.uint8)
    after = 0
    for number, item in enumerate(scene.items):
        last = words.index(item.shape or item.words, after)
        first = max(i for i in range(last) if words[i] in ("a", "an")) + 1
        item_of[starts[first] : starts[last + 1]] = number + 1
        after = last + 1
    return item_of


def small_masks(scene: Scene) -> NDArray[np.uint8]:
    """Area means of the items' masks: [ITEMS, MASK_SIDE, MASK_SIDE], 0..255."""
    count, size, _ = scene.masks.shape
    cell = size // MASK_SIDE
    means = scene.masks.reshape(count, MASK_SIDE, cell, MASK_SIDE, cell).mean((2, 4))
    made = np.zeros((ITEMS, MASK_SIDE, MASK_SIDE), np.uint8)
    made[:count] = np.round(255 * means)
    return made


def render_shard(folder: Path, index: int, size: int, seed: int) -> None:
    """Write shard `index`: pictures [SHARD, S, S, 3] uint8, captions, one per line, and places.

    The places are `masks` [SHARD, ITEMS, MASK_SIDE, MASK_SIDE] uint8 and `words` [SHARD, 77].
    """
    from .checkpoint import load_tokenizer

    rng, tokenizer = np.random.default_rng((seed, index)), load_tokenizer()
    scenes = [random_scene(rng, size) for _ in range(SHARD)]
    (folder / f"captions{index:04d}.txt").write_text("\n".join(s.caption for s in scenes))
    np.savez(
        folder / f"places{index:04d}.npz",
        masks=np.stack([small_masks(s) for s in scenes]),
        words=np.stack([item_words(s, tokenizer) for s in scenes]),
    )
    temporary = folder / f"part{index:04d}.npy"
    np.save(temporary, np.stack([s.image for s in scenes]))
    temporary.rename(folder / f"images{index:04d}.npy")  # a shard is there when this file is


def render_shards(folder: Path, samples: int, size: int, seed: int, workers: int) -> None:
    """Render what is missing of `samples` samples; a run that was cut short goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-samples // SHARD)
    missing = [i for i in range(count) if not (folder / f"images{i:04d}.npy").exists()]
    log.info("rendering %d of %d shards", len(missing), count)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(render_shard, folder, i, size, seed) for i in missing]
        for job in jobs:
            job.result()


def open_images(folder: Path) -> list[NDArray[np.uint8]]:
    """Memory maps of all shards, [SHARD, S, S, 3] each."""
    return [np.load(path, mmap_mode="r") for path in sorted(folder.glob("images*.npy"))]


def read_captions(folder: Path) -> list[str]:
    """Captions of all finished shards, in sample order."""
    finished = [path.stem.removeprefix("images") for path in sorted(folder.glob("images*.npy"))]
    texts = [(folder / f"captions{index}.txt").read_text() for index in finished]
    return [line for text in texts for line in text.split("\n")]


def read_places(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Masks [N, ITEMS, side, side], 0..255, and item of each token [N, 77], in sample order."""
    shards = [np.load(path) for path in sorted(folder.glob("places*.npz"))]
    masks = np.concatenate([shard["masks"] for shard in shards])
    return masks, np.concatenate([shard["words"] for shard in shards])
