"""Steps into blocks where text and picture attend to each other in one sequence.

An edit may ask for *streams* (`streams`): further texts, which go through the blocks behind the
sequence. The sequence itself does not read them; an edit mixes into an attention what some
positions read in them, and a stream's own attention is the edit's as well. So a region of the
picture can have a text of its own, although every block changes the text.

    sequence    [text | picture] or [picture | text]      S tokens, as the network made them
    in a block  [sequence | stream 1 | stream 2 | ...]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
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
        text_stages: the modules of each stretch that reads the text alone, in their order.
        tap: hands q, k and v of an attention, after norm and position embedding and with as many
            heads each, to a handler in place of the network's own function; gives its hooks.
        rope_dim: along which position embeddings have their tokens.
        mask_at: place of the attention mask among a block's arguments.
        context_width: of a row of the context.
        filler: gives what fills the text up behind its first stretch, [1, C]; None for nothing.
        around: what has to be open while hooks are on.
    """

    order: TokenOrder
    blocks: tuple[nn.Module, ...]
    text_stages: tuple[tuple[nn.Module, ...], ...]
    tap: Callable[[nn.Module, Handler], Iterable[Any]]
    rope_dim: int
    mask_at: int
    context_width: int
    patch: int = 2
    filler: Callable[[], Tensor] | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def filled(self, words: int) -> int:
        """Tokens of a text with so many rows of a context."""
        return self.order.spans(words, 1).n_text

    def spans(self, info: ForwardInfo) -> TokenSpans:
        """Where text and picture stand in a pass."""
        height, width = (-(-n // self.patch) for n in info.latent_shape[-2:])
        return self.order.spans(info.context_length, height * width)


ROPE_AT = 2  # place of the position embedding among a block's arguments
# Tokens of streams behind the sequence in the block that runs, see `streams`.
behind_sequence: ContextVar[int] = ContextVar("behind_sequence", default=0)


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
            total = self._spans.total
            if query.shape[2] - total not in (0, behind_sequence.get()):
                raise unlike(query.shape[2], total, "text and picture")
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


def unlike(count: int, expected: int, what: str) -> ModelError:
    return ModelError(
        f"This pass has {count} tokens of {what} and not the {expected} of one prompt and one "
        "picture, so text and picture cannot be told apart in it: reference pictures, further "
        "prompts and attention masks are not supported. Remove the node that adds them."
    )
