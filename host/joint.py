"""Steps into blocks where text and picture attend to each other in one sequence.

An edit may ask for *streams*: further copies of the text, which go through the blocks behind the
sequence. The sequence itself does not read them; an edit mixes into an attention what some
positions read in them, and a stream's own attention is the edit's as well. So a region of the
picture can have a text of its own, although every block changes the text.

    sequence    [text | picture] or [picture | text]      S tokens, as the network made them
    in a block  [sequence | stream 1 | stream 2 | ...]    S + n T tokens, T tokens of text

Layers that read the text alone run before the blocks; there streams are further rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .coverage import Coverage
from .edits import AttentionCall, ForwardInfo, UNetEdit, run_edits
from .sites import AttentionSite
from .token_spans import TokenOrder, TokenSpans

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [B, heads, S, d] -> [B, S, C]
Handler = Callable[[Attend, Tensor, Tensor, Tensor], Tensor]
SiteEdits = Mapping[AttentionSite, Sequence[UNetEdit]]


@dataclass(frozen=True, slots=True, eq=False)
class JointSeam:
    """How a host's network can be stepped into.

    Attributes:
        blocks: those with joint attention, in their order.
        text_stages: first and last module of each stretch that reads the text alone.
        tap: hands q, k and v of an attention, after norm and position embedding and with as many
            heads each, to a handler in place of the network's own function; gives its hooks.
        rope_dim: along which position embeddings have their tokens.
        mask_at: place of the attention mask among a block's arguments.
        context_width: of a row of the context.
        around: what has to be open while hooks are on.
    """

    order: TokenOrder
    blocks: tuple[nn.Module, ...]
    text_stages: tuple[tuple[nn.Module, nn.Module], ...]
    tap: Callable[[nn.Module, Handler], Iterable[Any]]
    rope_dim: int
    mask_at: int
    context_width: int
    patch: int = 2
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def spans(self, info: ForwardInfo) -> TokenSpans:
        """Where text and picture stand in a pass."""
        height, width = (-(-n // self.patch) for n in info.latent_shape[-2:])
        return self.order.spans(info.context_length, height * width)


ROPE_AT = 2  # place of the position embedding among a block's arguments


class JointHooks:
    """Those of one pass.

    Args:
        before, behind: attentions, and the edits that want to be called around their projection.
        current: whether the pass that runs is the one that these hooks belong to.
        editing: attentions whose edits run at this moment.
    """

    def __init__(
        self, seam: JointSeam, info: ForwardInfo, before: SiteEdits, behind: SiteEdits,
        coverage: Coverage, current: Callable[[], bool], editing: set[nn.Module],
    ) -> None:  # fmt: skip
        self._seam, self._info, self._spans = seam, info, seam.spans(info)
        self._before, self._behind, self._coverage = before, behind, coverage
        self._current, self._editing = current, editing

    def installed(self) -> Iterator[Any]:
        for site in dict.fromkeys([*self._before, *self._behind]):
            yield from self._around(site)

    def _around(self, site: AttentionSite) -> Iterator[Any]:
        before, behind = self._before.get(site, ()), self._behind.get(site, ())
        reached = [
            self._coverage.expect(site.block.name, edits) for edits in (before, behind) if edits
        ]
        waiting: list[AttentionCall] = []  # for the projection
        inputs: list[Tensor] = []

        def keep_inputs(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs[:] = args[:1]

        def handler(attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if not self._current() or site.module in self._editing:
                return attend(query, key, value)
            for one in reached:
                one()
            total, text = self._spans.total, self._spans.n_text
            if query.shape[2] < total or (query.shape[2] - total) % text:
                raise _unlike(query.shape[2], total, "text and picture")
            output = _of_sequence(attend, query, key, value, total)
            call = AttentionCall(
                site, self._info, query, key, value, output, inputs[0], self._spans
            )
            run_edits([edit.attended for edit in before], call, self._editing)
            if behind:
                waiting.append(call)
            return call.output

        def project(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not waiting or not self._current():
                return None
            call = waiting.pop()
            call.output = output
            run_edits([edit.attention for edit in behind], call, self._editing)
            return call.output

        yield site.module.register_forward_pre_hook(keep_inputs)
        yield from self._seam.tap(site.module, handler)
        if behind:
            yield site.out.module.register_forward_hook(project)


def _of_sequence(attend: Attend, query: Tensor, key: Tensor, value: Tensor, total: int) -> Tensor:
    """The network's own attention within the sequence; zeros where streams are."""
    extra = query.shape[2] - total
    if extra <= 0:
        return attend(query, key, value)
    own = attend(*(t[:, :, :total] for t in (query, key, value)))
    return torch.cat([own, own.new_zeros(own.shape[0], extra, own.shape[2])], dim=1)


class Streams:
    """Copies of the text that go through the network beside its sequence, in one pass."""

    def __init__(
        self, seam: JointSeam, info: ForwardInfo, number: int, current: Callable[[], bool]
    ) -> None:
        self._seam, self._spans, self._number = seam, seam.spans(info), number
        self._rows, self._current = info.latent_shape[0], current
        self._copies: list[Tensor] = []  # [B, T or fewer, C] each, as far as they have come

    def installed(self) -> Iterator[Any]:
        for first, last in self._seam.text_stages:
            yield first.register_forward_pre_hook(self._enter_stage)
            yield last.register_forward_hook(self._leave_stage)
        for block in self._seam.blocks:
            yield block.register_forward_pre_hook(self._enter_block, with_kwargs=True)
            yield block.register_forward_hook(self._leave_block)

    def _enter_stage(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._current():
            return None
        text, *more = args
        if self._copies and text.shape[1] != self._spans.n_text:
            raise _unlike(text.shape[1], self._spans.n_text, "the text")
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

    def _enter_block(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._current():
            return None
        sequence, total = args[0], self._spans.total
        mask = args[self._seam.mask_at] if len(args) > self._seam.mask_at else None
        if sequence.shape[1] != total or mask is not None:
            raise _unlike(sequence.shape[1], total, "text and picture")
        if module is self._seam.blocks[0]:
            self._copies = self._copies or [sequence[:, self._spans.text]] * self._number
        changed = list(args)
        changed[0] = torch.cat([sequence, *self._copies], dim=1)
        changed[ROPE_AT] = self._extended(args[ROPE_AT])
        return tuple(changed), kwargs

    def _extended(self, rope: Any) -> Any:
        """Position embeddings of the sequence, and behind them the text's for each stream."""
        if isinstance(rope, tuple):
            return tuple(self._extended(one) for one in rope)
        dim, text = self._seam.rope_dim, self._spans.text
        own = rope.narrow(dim, text.start, self._spans.n_text)
        return torch.cat([rope, *[own] * self._number], dim)

    def _leave_block(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if not self._current():
            return None
        total, size = self._spans.total, self._spans.n_text
        self._copies = list(output[:, total:].split(size, dim=1))
        return output[:, :total]


def _unlike(count: int, expected: int, what: str) -> ModelError:
    return ModelError(
        f"This pass has {count} tokens of {what} and not the {expected} of one prompt and one "
        "picture, so text and picture cannot be told apart in it: reference pictures, further "
        "prompts and attention masks are not supported. Remove the node that adds them."
    )
