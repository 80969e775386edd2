"""What TinyWorld's prior is trained on, encoded once: pictures, captions and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import TinyWorldModules, load_tinyworld
from ..prior import PriorSizes
from ..sampling import encode_prompts
from .prior_scenes import LABELS, labels_of, prior_scene

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(1, 3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(1, 3, 1, 1)
NO_LABEL = -100  # cross entropy leaves it out
LABELLED = "a photo of a {}"
WORDS = tuple(word for words in LABELS.values() for word in words)
PROMPTS_AT_ONCE = 256


class Material:
    """Scenes with their captions.

    Attributes:
        pixels: [n, 3, S, S]  uint8
        labels: [n, groups]   number of the true word of each group of `LABELS`, or NO_LABEL.
        hidden: [n, K, W]     float16, the first K states of the text encoder.
        ends:   [n]           position of the end token.
        empty, empty_end, words, word_ends: the same of the empty prompt and of all `WORDS`.
    """

    def __init__(self, count: int, sizes: PriorSizes, seed: int, checkpoint: Path) -> None:
        world, rng = load_tinyworld(checkpoint), np.random.default_rng(seed)
        scenes = [prior_scene(rng, sizes.image_px) for _ in range(count)]
        pixels = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2)
        self.pixels = pixels.contiguous()
        found = [labels_of(scene) for scene in scenes]
        self.labels = torch.tensor(
            [
                [words.index(one[g]) if g in one else NO_LABEL for g, words in LABELS.items()]
                for one in found
            ]
        )
        self._world, self._tokens = world, sizes.tokens
        self.empty, self.empty_end = self._encode([""])
        self.words, self.word_ends = self._encode([LABELLED.format(word) for word in WORDS])
        self.hidden, self.ends = self._encode([scene.caption for scene in scenes])

    def pictures(self, rows: Tensor) -> Tensor:
        """Standardised as CLIP's, [n, 3, S, S]."""
        return (self.pixels[rows].float() / 255 - MEAN) / STD

    def texts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [n, K, W] and positions of the end [n]."""
        return self.hidden[rows].float(), self.ends[rows]

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        world: TinyWorldModules = self._world
        hidden, ends = [], []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            tokens, states = encode_prompts(world, prompts[start : start + PROMPTS_AT_ONCE])
            hidden.append(states[:, : self._tokens].half())
            ends.append((tokens == world.tokenizer.eos_token_id).int().argmax(dim=1))
        return torch.cat(hidden), torch.cat(ends)
