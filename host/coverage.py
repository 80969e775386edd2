"""Checks that the UNet called every hook of a pass, so that no edit is skipped silently.

Hooks are passed by where a layer's own code does not run: in compiled and replayed graphs, in fused
kernels, and in blocks that another pack has replaced. A block may also be left out on purpose, by
packs that take what it gave at an earlier step; then nothing of it runs, and nothing is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from ..errors import MissedSitesError
from .ports import UNetEdit

# Edits that took part in some pass already, by id; an edit that never did has no effect at all.
_took_part: WeakValueDictionary[int, UNetEdit] = WeakValueDictionary()


@dataclass(slots=True, eq=False)
class _Place:
    """One hook, or several that have to be called together."""

    site: str
    edits: Sequence[UNetEdit]
    reached: bool = False


@dataclass(slots=True, eq=False)
class Coverage:
    """Hooks of one pass: those that are wanted, and those that were called.

    Attributes:
        network_ran: False where somebody answered for the whole UNet, as step caches do.
    """

    network_ran: bool = True
    _places: list[_Place] = field(default_factory=list[_Place])
    _entered: set[str] = field(default_factory=set[str])

    def expect(self, site: str, edits: Sequence[UNetEdit]) -> Callable[[], None]:
        """A place where edits want to be called; the result is to be called when they are."""
        self._places.append(place := _Place(site, edits))

        def reached() -> None:
            place.reached = True

        return reached

    def entering(self, site: str) -> Callable[..., None]:
        """A pre-hook for the block that holds a site."""

        def entered(*_: Any) -> None:
            self._entered.add(site)

        return entered

    def check(self) -> None:
        """At the end of a pass that nobody ended early.

        Raises:
            MissedSitesError: a layer ran, and did not call what was put on it.
        """
        silent = [place for place in self._places if not place.reached]
        for edit in (edit for place in self._places if place.reached for edit in place.edits):
            if id(edit) not in _took_part:
                _took_part[id(edit)] = edit
        if not silent or not self.network_ran:
            return
        nothing = not self._entered and len(silent) == len(self._places)
        missed = [p for p in silent if nothing or p.site in self._entered or _is_new(p)]
        if missed:
            raise MissedSitesError(_message(missed, len(self._places), nothing))


def _is_new(place: _Place) -> bool:
    return not any(id(edit) in _took_part for edit in place.edits)


def _message(missed: Sequence[_Place], total: int, nothing: bool) -> str:
    names = ", ".join(dict.fromkeys(type(e).__name__ for place in missed for e in place.edits))
    cause = (
        "The UNet seems to run as a compiled or recorded graph (torch.compile, CUDA graphs, "
        "TensorRT): remove the node or call that does this from this model."
        if nothing
        else "Another pack may have replaced these blocks, or a fused kernel runs in their place: "
        "remove the nodes that change the model's blocks or quantise it, one after the other."
    )
    return (
        f"{len(missed)} of {total} places in the UNet did not call {names}, the first at "
        f"{missed[0].site}, so it would have no effect there. {cause}"
    )
