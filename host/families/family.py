"""A family of diffusion transformers: tables of names and roles that both hosts read.

Canonical names are those of ComfyUI's modules, without "transformer."; the tables have diffusers'
names beside them. A new family is a `Family` in a file of its own, and an entry in `registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..conditioning import TextLayout
from ..sites import AttentionKind, Feature, Role, Rows

TRANSFORMER = "transformer"  # what canonical names of its weights begin with


@dataclass(frozen=True, slots=True)
class Part:
    """One layer with weights.

    Attributes:
        diffusers: its name there.
        roles: see `Role`.
        rows: what its output has one vector for; None where an edit cannot step in, because the
            layer works before the grid exists, or a fused kernel passes it by.
    """

    diffusers: str
    roles: tuple[Role, ...] = ()
    rows: Rows | None = None


@dataclass(frozen=True, slots=True)
class AttentionPart:
    """One attention of a block, by the canonical names of its layers.

    Attributes:
        query_norm, key_norm: norms of each head, behind the projections; "" where there are none.
    """

    kind: AttentionKind
    query: str
    key: str
    value: str
    out: str
    query_norm: str = ""
    key_norm: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What both hosts have to know of a family.

    Attributes:
        name: in fingerprints.
        title: in messages.
        classes: of its network in ComfyUI; subclasses count.
        blocks: the list of its main blocks, in ComfyUI and in diffusers.
        parts: of a block, canonical name -> layer.
        outer: the same outside of the blocks.
        attentions: of a block, canonical name -> its layers. Only those whose q and k hooks see
            after norm and position embedding.
        heads: name of an attention's number of heads, in ComfyUI and in diffusers.
        features: of a block -> the layer whose output can be kept and put back.
        patch: latent cells on each side of a position.
        text: how its contexts are laid out.
        finders: share of the way through the blocks between which words are located best.
        token_tables: text encoder -> canonical name of the weight with its token vectors.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    blocks: tuple[str, str]
    parts: Mapping[str, Part]
    outer: Mapping[str, Part]
    attentions: Mapping[str, AttentionPart]
    heads: tuple[str, str]
    features: Mapping[Feature, str] = field(default_factory=dict[Feature, str])
    patch: int = 2
    text: TextLayout = TextLayout()
    finders: tuple[float, float] = (0.45, 0.55)
    token_tables: Mapping[str, str] = field(default_factory=dict[str, str])

    def part_of(self, path: str) -> Part | None:
        """The layer that a canonical path names; None for one that is in no table."""
        inner = self._inner(path)
        return self.parts.get(inner[1]) if inner else self.outer.get(path)

    def roles_of(self, path: str) -> frozenset[Role]:
        """What a layer is for, by its canonical path."""
        part = self.part_of(path)
        return frozenset(part.roles if part else ())

    def diffusers_name(self, path: str) -> str:
        """diffusers' name of a layer.

        Raises:
            KeyError: the path is in no table.
        """
        part, inner = self.part_of(path), self._inner(path)
        if part is None:
            raise KeyError(f"{path!r} is no layer of {self.title}")
        return f"{self.blocks[1]}.{inner[0]}.{part.diffusers}" if inner else part.diffusers

    def _inner(self, path: str) -> tuple[int, str] | None:
        """Number of the block, and the name of the layer in it."""
        start = f"{self.blocks[0]}."
        number, _, part = path.removeprefix(start).partition(".")
        return (int(number), part) if path.startswith(start) and number.isdecimal() else None
