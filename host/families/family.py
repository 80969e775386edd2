"""A family of diffusion transformers: tables of names and roles that both hosts read.

Canonical names are those of ComfyUI's modules, without "transformer."; the tables have diffusers'
names beside them. A new family is a `Family` in a file of its own, and an entry in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..conditioning import TextLayout
from ..sites import AttentionKind, Feature, Role, Rows
from ..token_spans import TokenOrder

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


@dataclass(frozen=True, slots=True)
class BlockList:
    """Blocks beside the main ones: refiners of the text or of the picture.

    Attributes:
        diffusers: the name of the list there.
        parts: of a block, canonical name -> layer.
    """

    diffusers: str
    parts: Mapping[str, Part]


@dataclass(frozen=True, kw_only=True, slots=True)
class JointPlan:
    """Where text and picture are one sequence; pairs are of ComfyUI and of diffusers.

    Attributes:
        order: of text and picture in the sequence.
        text_stages: first and last module of each stretch that reads the text alone.
        rope_dim: along which the position embedding has its tokens.
        mask_at: place of the attention mask among a block's arguments.
        context: canonical names of layers; a row of a context is as wide as their inputs together.
        filler: name of the vector that fills the text up behind its first stretch.
    """

    order: tuple[TokenOrder, TokenOrder]
    text_stages: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
    rope_dim: tuple[int, int]
    mask_at: tuple[int, int]
    context: tuple[str, ...]
    filler: str = ""


def any_network(network: Any) -> bool:
    """Every network of a class."""
    return True


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
        located_at: share of the noise between which they are.
        token_tables: text encoder -> canonical name of the weight with its token vectors.
        lists: of further blocks, by their name in ComfyUI.
        fused: a layer of ComfyUI that holds several, and their canonical names in their order.
        joint: where text and picture are one sequence.
        accepts: tells the family from others of the same class.
        kept_by_block: tensors of [positions, width] that a block keeps for the backward pass,
            counted on one block at 1024 px.
        base: the variant that LoRAs are trained on, in messages.
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
    located_at: tuple[float, float] = (0.0, 1.0)
    token_tables: Mapping[str, str] = field(default_factory=dict[str, str])
    lists: Mapping[str, BlockList] = field(default_factory=dict[str, BlockList])
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    joint: JointPlan | None = None
    accepts: Callable[[Any], bool] = any_network
    base: str = ""
    kept_by_block: int = 40

    def part_of(self, path: str) -> Part | None:
        """The layer that a canonical path names; None for one that is in no table."""
        inner = self._inner(path)
        return inner[2].get(inner[1]) if inner else self.outer.get(path)

    def paths(self, length: Callable[[str], int]) -> Iterator[str]:
        """Canonical paths of all layers.

        Args:
            length: diffusers' name of a list of blocks -> how many it has.
        """
        for name, blocks in self._lists():
            for number in range(length(blocks.diffusers)):
                yield from (f"{name}.{number}.{part}" for part in blocks.parts)
        yield from self.outer

    def _lists(self) -> Iterator[tuple[str, BlockList]]:
        yield self.blocks[0], BlockList(self.blocks[1], self.parts)
        yield from self.lists.items()

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
        return f"{inner[0]}.{part.diffusers}" if inner else part.diffusers

    def comfy_name(self, path: str) -> tuple[str, int | None]:
        """ComfyUI's name of a layer; and which part of it, where it holds several."""
        for whole, parts in self.fused.items():
            for number, part in enumerate(parts):
                if path.endswith(f".{part}"):
                    return f"{path.removesuffix(part)}{whole}", number
        return path, None

    def from_comfy(self, path: str) -> tuple[str, ...]:
        """Canonical names of what a layer of ComfyUI holds."""
        for whole, parts in self.fused.items():
            if path.endswith(f".{whole}"):
                return tuple(f"{path.removesuffix(whole)}{part}" for part in parts)
        return (path,)

    def _inner(self, path: str) -> tuple[str, str, Mapping[str, Part]] | None:
        """Of a layer in a block: diffusers' name of the block, its own name, and the table."""
        for name, blocks in self._lists():
            number, _, part = path.removeprefix(f"{name}.").partition(".")
            if path.startswith(f"{name}.") and number.isdecimal():
                return f"{blocks.diffusers}.{number}", part, blocks.parts
        return None
