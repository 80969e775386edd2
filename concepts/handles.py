"""Handles: the names of learned concepts, and the token vectors behind them.

A handle is written `<mug>` in prompts; elsewhere its name has no brackets.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import HandleError
from ..host.ports import HandleVectors, Host
from ..host.prompt_text import HANDLE, NAME, composed

log = logging.getLogger("conceptloom")


def checked_name(name: str) -> str:
    """The name without brackets, its letters composed (Unicode NFC).

    Raises:
        HandleError: it is not 1 to 40 letters of any script, digits, _ or -.
    """
    match = HANDLE.fullmatch(name)
    bare = composed(match[1] if match else name)
    if not bare or name == "<>":
        raise HandleError("A handle is empty; give it a name such as my-mug.")
    if not NAME.fullmatch(bare):
        proposal = "-".join(NAME.findall(bare)).strip("-")[:40] or "my-mug"
        raise HandleError(
            f"{name!r} cannot be a handle: use 1 to 40 letters of any script, digits, _ or -, "
            f"without spaces, for example {proposal}."
        )
    return bare


def checked_names(names: Sequence[str], host: Host | None = None) -> list[str]:
    """Names without brackets, in the same order.

    Args:
        host: also warn about words in its vocabulary. In a prompt, only the brackets distinguish
            `<mug>` from `mug`.

    Raises:
        HandleError: a name is not a valid handle, or occurs twice (upper and lower case count
            as the same, because they share a file name).
    """
    checked = [checked_name(name) for name in names]
    seen: dict[str, str] = {}
    for name in checked:
        if other := seen.get(name.casefold()):
            raise HandleError(f"The handle <{name}> occurs twice (also as <{other}>); rename one.")
        seen[name.casefold()] = name
        if host is not None and len(host.tokenize(name)) == 1:
            log.warning(
                "<%s> is also an ordinary word that the model knows: write it with brackets to "
                "mean the concept, or choose a name such as my-%s",
                name,
                name,
            )
    return checked


def initialiser_note(host: Host, word: str) -> str:
    """Note for the user about the use of a word; "" if there is none."""
    count = len(host.tokenize(word)) if word else 1
    if count == 1:
        return ""
    return f"The initialiser word {word!r} has {count} tokens; the handle starts from their mean."


def initial_vectors(
    host: Host, word: str, *, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Initial vectors, encoder -> [n, width], float32 on the host's device.

    Source: Break-A-Scene's code (train.py:782-798) takes the first token of the word.
    Here it is the mean of all tokens, and without a word a random vector with the statistics of
    the table instead of a copy of its last rows.

    Args:
        word: any text; "" samples one vector with mean and deviation of the token table.
        generator: on the CPU; required without a word.

    Raises:
        HandleError: the word has no token.
    """
    if not word.strip():
        assert generator is not None
        return {name: _random_vector(host, name, generator) for name in sorted(host.encoders)}
    vectors = host.word_vectors(word)
    chosen: dict[str, Tensor] = {}
    for encoder, rows in vectors.items():
        if not rows.shape[0]:
            raise HandleError(f"The initialiser word {word!r} has no token; use a plain noun.")
        mean = rows.float().mean(dim=0, keepdim=True)
        chosen[encoder] = mean.detach().to(host.device, torch.float32, copy=True)
    return chosen


def _random_vector(host: Host, encoder: str, generator: torch.Generator) -> Tensor:
    """[1, width] with the mean and standard deviation that each column of the table has."""
    table = host.token_table(encoder).float()
    noise = torch.randn(1, table.shape[1], generator=generator).to(table.device)
    return (table.mean(dim=0) + table.std(dim=0) * noise).to(host.device)


def initial_handles(
    host: Host, words: Mapping[str, str], *, seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """Starting vectors of several handles, name -> encoder -> [n, width].

    Random vectors depend on the seed and the handle's name, not on the order of handles.

    Args:
        words: handle -> initialiser word, "" for none.

    Raises:
        HandleError: see `checked_names` and `initial_vectors`.
    """
    vectors: dict[str, dict[str, Tensor]] = {}
    for name, word in zip(checked_names(list(words), host), words.values(), strict=True):
        if note := initialiser_note(host, word):
            log.warning("<%s>: %s", name, note)
        vectors[name] = initial_vectors(host, word, generator=generator_for(seed, name))
    return vectors


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one purpose, identified by name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class HandleParameters:
    """Trainable vectors of handles, float32: name -> encoder -> parameter [n, width]."""

    def __init__(self, initial: HandleVectors) -> None:
        self._vectors = {
            name: {
                encoder: nn.Parameter(rows.detach().to(torch.float32, copy=True))
                for encoder, rows in vectors.items()
            }
            for name, vectors in initial.items()
        }

    @property
    def names(self) -> list[str]:
        return list(self._vectors)

    def vectors(self) -> dict[str, dict[str, nn.Parameter]]:
        """What `Host.encode_prompt` takes; gradients reach the parameters."""
        return self._vectors

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter(self.named().values())

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters by stable names, `handle.<name>.<encoder>`."""
        return {
            f"handle.{name}.{encoder}": rows
            for name, vectors in self._vectors.items()
            for encoder, rows in vectors.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU, by the names of `named`."""
        return {name: rows.detach().cpu().clone() for name, rows in self.named().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore values; all parameters must be present."""
        for name, rows in self.named().items():
            rows.copy_(state[name])

    def to_concept_handles(self) -> dict[str, dict[str, Tensor]]:
        """Values for a `Concept`: float32 copies on the CPU."""
        return {
            name: {encoder: rows.detach().cpu().clone() for encoder, rows in vectors.items()}
            for name, vectors in self._vectors.items()
        }
