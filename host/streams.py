"""Streams: texts that go through a network with joint attention beside its own, see `joint`.

copies of the pass's text    layers that read the text alone have them as further rows of the batch
texts of their own           these layers run once more for each, as they may differ in length
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .edits import ForwardInfo, StreamTexts
from .inference import usable
from .joint import ROPE_AT, JointSeam, behind_sequence, unlike


class _Streams:
    """Texts beside the sequence in one pass.

    Args:
        sizes: tokens of each.
        current: whether the pass that runs is the one that these hooks belong to.
    """

    def __init__(
        self, seam: JointSeam, info: ForwardInfo, sizes: Sequence[int], current: Callable[[], bool]
    ) -> None:
        self._seam, self._spans, self._sizes = seam, seam.spans(info), list(sizes)
        self._rows, self._current = info.latent_shape[0], current
        self._copies: list[Tensor] = []  # as far as they have come

    def installed(self) -> Iterator[Any]:
        yield from self._before_blocks()
        for block in self._seam.blocks:
            yield block.register_forward_pre_hook(self._enter_block, with_kwargs=True)
            yield block.register_forward_hook(self._leave_block)

    def _before_blocks(self) -> Iterator[Any]:
        raise NotImplementedError

    def _started(self, sequence: Tensor) -> list[Tensor]:
        """[B, T, C] of each stream in front of the first block."""
        raise NotImplementedError

    def _enter_block(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._current():
            return None
        sequence, total = args[0], self._spans.total
        mask = args[self._seam.mask_at] if len(args) > self._seam.mask_at else None
        if sequence.shape[1] != total or mask is not None:
            raise unlike(sequence.shape[1], total, "text and picture")
        if module is self._seam.blocks[0]:
            self._copies = self._started(sequence)
        changed = list(args)
        changed[0] = torch.cat([sequence, *self._copies], dim=1)
        changed[ROPE_AT] = self._extended(args[ROPE_AT])
        behind_sequence.set(sum(self._sizes))
        return tuple(changed), kwargs

    def _extended(self, rope: Any) -> Any:
        """Position embeddings of the sequence, and behind them the text's for each stream."""
        if isinstance(rope, tuple):
            return tuple(self._extended(one) for one in rope)
        dim, text = self._seam.rope_dim, self._spans.text
        known = rope.narrow(dim, text.start, self._spans.n_text)
        return torch.cat([rope, *(positions(known, dim, size) for size in self._sizes)], dim)

    def _leave_block(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if not self._current():
            return None
        behind_sequence.set(0)
        total = self._spans.total
        self._copies = list(output[:, total:].split(self._sizes, dim=1))
        return output[:, :total]


class CopiedStreams(_Streams):
    """Copies of the pass's own text."""

    def __init__(
        self, seam: JointSeam, info: ForwardInfo, number: int, current: Callable[[], bool]
    ) -> None:
        super().__init__(seam, info, [seam.spans(info).n_text] * number, current)
        self._number = number

    def _before_blocks(self) -> Iterator[Any]:
        for first, *_, last in (stage * 2 for stage in self._seam.text_stages):
            yield first.register_forward_pre_hook(self._enter_stage)
            yield last.register_forward_hook(self._leave_stage)

    def _enter_stage(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._current():
            return None
        text, *more = args
        if self._copies and text.shape[1] != self._spans.n_text:
            raise unlike(text.shape[1], self._spans.n_text, "the text")
        copies = [self._filled(text, copy) for copy in self._copies] or [text] * self._number
        rest = (self._repeated(one, len(text)) for one in more)
        return (torch.cat([text, *copies]), *rest)

    def _filled(self, text: Tensor, copy: Tensor) -> Tensor:
        """A copy with what fills the text up by now."""
        words = self._spans.words
        return torch.cat([copy[:, :words], text[:, words:]], dim=1)

    def _repeated(self, argument: Any, rows: int) -> Any:
        is_by_row = isinstance(argument, Tensor) and len(argument) == rows > 1
        return torch.cat([argument] * (1 + self._number)) if is_by_row else argument

    def _leave_stage(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if not self._current():
            return None
        text, *copies = output.chunk(1 + self._number)
        self._copies = [copy.reshape(self._rows, -1, copy.shape[-1]) for copy in copies]
        return text

    def _started(self, sequence: Tensor) -> list[Tensor]:
        return self._copies or [sequence[:, self._spans.text]] * self._number


class OwnStreams(_Streams):
    """Texts of their own, the same for every row of the batch."""

    def __init__(
        self, seam: JointSeam, info: ForwardInfo, texts: StreamTexts, current: Callable[[], bool]
    ) -> None:
        sizes = [seam.filled(context.shape[1]) for context in texts.contexts]
        super().__init__(seam, info, sizes, current)
        self._texts = texts

    def _before_blocks(self) -> Iterator[Any]:
        for stage in self._seam.text_stages:
            for module in stage:
                yield module.register_forward_hook(self._run_too, with_kwargs=True)

    def _run_too(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        """What a module has just done for the pass's text, for each stream."""
        if not self._current() or self._texts.running is not None:
            return
        text = args[0]
        if module is self._seam.text_stages[0][0]:
            layers = text.shape[2:] if text.ndim == 4 else (-1,)  # of the text encoder
            contexts = (usable(context.to(text)) for context in self._texts.contexts)
            self._copies = [context.unflatten(2, layers) for context in contexts]
        else:
            pairs = zip(self._copies, self._sizes, strict=True)
            self._copies = [self._filled(copy, size) for copy, size in pairs]
        try:
            for number, size in enumerate(self._sizes):
                self._texts.running = number
                more = self._more(args[1:], size)
                self._copies[number] = module(self._copies[number], *more, **kwargs)
        finally:
            self._texts.running = None

    def _filled(self, copy: Tensor, size: int) -> Tensor:
        missing, filler = size - copy.shape[1], self._seam.filler
        if not missing:
            return copy
        assert filler is not None
        return torch.cat([copy, usable(filler().to(copy)).expand(1, missing, -1)], dim=1)

    def _more(self, args: tuple[Any, ...], size: int) -> list[Any]:
        """Further arguments of a module for one text alone: positions, and no mask."""
        more = list(args)
        for place, argument in enumerate(args, 1):
            if not isinstance(argument, Tensor):
                continue
            if place == ROPE_AT:
                more[place - 1] = positions(argument[:1], self._seam.rope_dim, size)
            elif argument.dtype is torch.bool:
                more[place - 1] = None
        return more

    def _started(self, sequence: Tensor) -> list[Tensor]:
        return [copy.to(sequence).expand(self._rows, -1, -1) for copy in self._copies]


def streams_of(
    seam: JointSeam, info: ForwardInfo, wanted: int | StreamTexts, current: Callable[[], bool]
) -> _Streams:
    """What an edit wants, see `UNetEdit.wanted_streams`."""
    if isinstance(wanted, StreamTexts):
        return OwnStreams(seam, info, wanted, current)
    return CopiedStreams(seam, info, wanted, current)


def positions(known: Tensor, dim: int, size: int) -> Tensor:
    """Position embeddings of as many tokens of text, of which a pass has the first ones.

    Each further token is turned against the one before it as the last known ones are.

    Args:
        known: rotations, as complex numbers or 2x2 matrices; others stand still.
        dim: of the tokens.
    """
    there = known.shape[dim]
    if size <= there:
        return known.narrow(dim, 0, size)
    last, before = (known.narrow(dim, max(there - n, 0), 1) for n in (1, 2))
    further = [last]
    for _ in range(size - there):
        if torch.is_complex(last):
            further.append(further[-1] * (last * before.conj()))
        elif last.shape[-2:] == (2, 2):
            further.append(further[-1] @ (last @ before.mT))
        else:
            further.append(last)
    return torch.cat([known, *further[1:]], dim)
