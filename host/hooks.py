"""Registers the edits of one forward pass on a UNet and removes them.

Both hosts share this file: their UNets come from the same family, and a site names its modules the
same way. Only ordinary module hooks are used, so weights may be offloaded, paged or quantised, and
attention patches of others keep working: what they replace is seen here as the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from ..errors import ModelError
from .coverage import Coverage
from .edits import run_edits
from .joint import JointHooks
from .ports import (
    AttentionCall,
    AttentionKind,
    AttentionSite,
    ForwardInfo,
    LayerSite,
    ResNetSite,
    TransformerSite,
    UNetEdit,
    UNetSites,
)
from .streams import streams_of
from .uncompiled import uncompiled


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One forward pass with its edits."""

    sites: UNetSites
    edits: Sequence[UNetEdit]
    info: ForwardInfo


# Of this thread, for a host may run copies of a UNet on several devices at once:
# the passes that run at this moment, several where applications are stacked,
_passes: ContextVar[tuple[_Pass, ...]] = ContextVar("passes", default=())
# and how many plain passes they are inside of.
_depth: ContextVar[int] = ContextVar("depth", default=0)


@contextmanager
def edits_installed(
    sites: UNetSites, edits: Sequence[UNetEdit], info: ForwardInfo
) -> Iterator[Coverage]:
    """Every hook that the edits want, for as long as the context lasts: one pass of the UNet.

    Raises:
        MissedSitesError: the pass came to its end, and some layer did not call its hook.
    """
    this, coverage = _Pass(sites, edits, info), Coverage()
    with ExitStack() as cleanup:
        if edits:
            cleanup.enter_context(uncompiled)
        for edit in edits:
            cleanup.callback(edit.end)
            edit.begin(info)
        if edits and sites.joint is not None:
            cleanup.enter_context(sites.joint.around())
        cleanup.enter_context(_hooked([this], coverage))
        cleanup.callback(_passes.reset, _passes.set((*_passes.get(), this)))
        yield coverage
        coverage.check()


@contextmanager
def plain_pass() -> Iterator[None]:
    """Hooks that are on already rest; those that are put on in here work.

    For a pass of the same UNet from inside of another one, which edits of others would change.
    """
    before = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(before)


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` of torch's checkpoint: a block computed again meets the edits that change it."""
    changing = [
        _Pass(p.sites, [e for e in p.edits if not e.reads_only], p.info) for p in _passes.get()
    ]
    return nullcontext(), _again(changing)


@contextmanager
def _again(passes: Sequence[_Pass]) -> Iterator[None]:
    """Passes of which a block is computed again."""
    with ExitStack() as cleanup:
        for one in passes:
            if one.edits and one.sites.joint is not None:
                cleanup.enter_context(one.sites.joint.around())
        cleanup.enter_context(_hooked(passes, Coverage()))
        yield


@contextmanager
def _hooked(passes: Sequence[_Pass], coverage: Coverage) -> Iterator[None]:
    hooks: list[Any] = []  # an ExitStack would wrap each removal; in a small model that shows
    try:
        for one in passes:
            hooks.extend(_hooks(one, coverage))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def residuals_installed(
    residuals: Iterable[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]],
) -> Iterator[None]:
    """Let functions of input and output stand in for layers' outputs while the context lasts."""
    with ExitStack() as cleanup:
        for module, residual in residuals:
            hook = module.register_forward_hook(
                lambda module, args, output, residual=residual: residual(args[0], output)
            )
            cleanup.callback(hook.remove)
        yield


Site = TransformerSite | ResNetSite | LayerSite
_AnySite = TypeVar("_AnySite", LayerSite, AttentionSite)


def _on(module: nn.Module, hook: Callable[..., Tensor | None]) -> Any:
    depth = _depth.get()
    return module.register_forward_hook(
        lambda *call: hook(*call) if _depth.get() == depth else None
    )


def _at(module: nn.Module, site: Site, coverage: Coverage) -> Any:
    depth, entered = _depth.get(), coverage.entering(site.name)
    return module.register_forward_pre_hook(
        lambda *call: entered() if _depth.get() == depth else None
    )


def _hooks(one: _Pass, coverage: Coverage) -> Iterator[Any]:
    entered: dict[nn.Module, Site] = {}  # blocks
    yield from _streams(one)
    layers = _asked((e.wanted_layers(one.sites), e) for e in one.edits)
    before = _asked((e.wanted_attended(one.sites), e) for e in one.edits)
    behind = _asked((e.wanted_attentions(one.sites), e) for e in one.edits)
    for layer, edits in layers.items():  # before those that keep what these leave
        block = layer.block or layer
        entered[block.module] = block
        hook = _on_layer(layer, edits, one.info, coverage)
        if layer.read_by is None:
            yield _on(layer.module, hook)
        else:
            yield from _spread_hooks(layer.module, layer.read_by, hook)
    yield from _joint_hooks(one, before, behind, coverage)
    for site in dict.fromkeys([*before, *behind]):
        entered[site.block.module] = site.block
        if site.kind is AttentionKind.JOINT:
            continue
        edits = before.get(site, []), behind.get(site, [])
        yield from _AttentionHooks(site, *edits, one.info, coverage).installed()
    if entered:  # the ends run in every pass, also where others leave inner blocks out
        blocks: Sequence[Site] = one.sites.resnets or one.sites.transformers
        ends = [*blocks[:1], *blocks[-1:]]
        for module, site in (entered | {end.module: end for end in ends}).items():
            yield _at(module, site, coverage)


def _streams(one: _Pass) -> Iterator[Any]:
    """Texts beside the sequence, as an edit wants them."""
    if one.sites.joint is None:
        return
    wanted = [w for edit in one.edits if (w := edit.wanted_streams(one.sites, one.info))]
    if len(wanted) > 1:
        raise ModelError(
            "Two applications give regions texts of their own in one pass of a model in which text "
            "and picture are one sequence; leave one out: Load LoRA (Localized), or regions."
        )
    for streams in wanted:
        yield from streams_of(one.sites.joint, one.info, streams, _is_current()).installed()


def _joint_hooks(
    one: _Pass,
    before: dict[AttentionSite, list[UNetEdit]],
    behind: dict[AttentionSite, list[UNetEdit]],
    coverage: Coverage,
) -> Iterator[Any]:
    """Those of attentions to text and picture."""
    if one.sites.joint is not None:
        joint = [
            {site: edits for site, edits in requested.items() if site.kind is AttentionKind.JOINT}
            for requested in (before, behind)
        ]
        current = _is_current()
        hooks = JointHooks(
            one.sites.joint, one.info, joint[0], joint[1], coverage, current, _editing
        )
        yield from hooks.installed()


def _is_current() -> Callable[[], bool]:
    """Whether the pass that runs is no plain one inside of the one that begins now."""
    depth = _depth.get()
    return lambda: _depth.get() == depth


def _asked(
    requests: Iterable[tuple[Iterable[_AnySite], UNetEdit]],
) -> dict[_AnySite, list[UNetEdit]]:
    """Site -> the edits that ask for it, in their order."""
    edits_at: dict[_AnySite, list[UNetEdit]] = {}
    for sites, edit in requests:
        for site in sites:
            edits_at.setdefault(site, []).append(edit)
    return edits_at


def _on_layer(
    site: LayerSite, edits: Sequence[UNetEdit], info: ForwardInfo, coverage: Coverage
) -> Callable[..., Tensor]:
    reached = coverage.expect((site.block or site).name, edits)

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if site.attention in _editing:
            return output
        reached()
        inputs, shape = args[0], output.shape
        if output.ndim == 5:  # [B, T, h, w, C]
            inputs, output = inputs.flatten(1, -2), output.flatten(1, -2)
        for edit in edits:
            changed = edit.layer(site, inputs, output, info)
            output = output if changed is None else changed
        return output.view(shape) if len(shape) == 5 else output

    return hook if site.part is None else _on_part(site.part, hook)


def _on_part(part: slice, hook: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For one of several layers that a network keeps in one module."""

    def changed(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        own = output[..., part]
        result = hook(module, args, own)
        if result is own:
            return output
        output = output.clone() if output.requires_grad or result.requires_grad else output
        output[..., part] = result
        return output

    return changed


def _spread_hooks(layer: nn.Module, norm: nn.Module, hook: Callable[..., Tensor]) -> Iterator[Any]:
    """Of a layer whose output is spread over the grid and added there, just before a norm.

    An edit may give every position a vector of its own, [B, C, h, w]. Not every host takes that
    from the layer, so what differs is added where the norm reads it.
    """
    depth, differs = _depth.get(), list[Tensor]()

    def changed(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        result = hook(module, args, output)
        if result.ndim == output.ndim:
            return result
        differs.append(result - output[..., None, None])
        return output

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        if not differs or _depth.get() != depth:
            return None
        return (args[0] + differs.pop().to(args[0]), *args[1:])

    yield _on(layer, changed)
    yield norm.register_forward_pre_hook(before_norm)


# Attentions whose edits run at this moment: what an edit projects for itself is not the host's
# pass, neither for its own hooks nor for those of another application on the same attention.
_editing: set[nn.Module] = set()


class _AttentionHooks:
    """Those that keep q, k and v of an attention, and those around its output projection.

    Where another pack replaces an attention, ComfyUI calls its layers one by one and never the
    attention itself: so they all stand on its layers.
    """

    def __init__(
        self,
        site: AttentionSite,
        before: Sequence[UNetEdit],
        behind: Sequence[UNetEdit],
        info: ForwardInfo,
        coverage: Coverage,
    ) -> None:
        self._site, self._info = site, info
        self._before, self._behind = before, behind
        name = site.block.name
        self._reached = [coverage.expect(name, edits) for edits in (before, behind) if edits]
        self._kept: dict[str, Tensor] = {}

    def installed(self) -> Iterator[Any]:
        site, depth = self._site, _depth.get()
        norm = site.query_norm
        yield _on(site.query.module if norm is None else norm, self._keeping("query"))
        if site.key_norm is not None:
            yield _on(site.key_norm, self._keeping("key"))
        yield _on(site.key.module, self._keep_key)
        yield _on(site.value.module, self._keeping("value"))
        if self._before:
            yield site.out.module.register_forward_pre_hook(
                lambda module, args: self._hand_on(args) if _depth.get() == depth else None
            )
        if self._behind:
            yield _on(site.out.module, lambda module, args, output: self._project(output))

    def _keeping(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._site.module not in _editing:
                self._kept[name] = output

        return hook

    def _keep_key(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """The context, and the key unless a norm changes it; one hook, as each costs time."""
        if self._site.module not in _editing:
            self._kept["context"] = args[0]
            if self._site.key_norm is None:
                self._kept["key"] = output

    def _hand_on(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._is_called():
            return None
        call = self._call(args[0])
        if not self._behind:
            self._kept.clear()
        run_edits([edit.attended for edit in self._before], call, _editing)
        return (call.output, *args[1:])

    def _project(self, output: Tensor) -> Tensor | None:
        if not self._is_called():
            return None
        call = self._call(output)
        self._kept.clear()
        run_edits([edit.attention for edit in self._behind], call, _editing)
        return call.output

    def _is_called(self) -> bool:
        return self._site.module not in _editing and len(self._kept) == 4

    def _call(self, output: Tensor) -> AttentionCall:
        for reached in self._reached:
            reached()
        q, k, v = (self._split(self._kept[name]) for name in ("query", "key", "value"))
        return AttentionCall(self._site, self._info, q, k, v, output, self._kept["context"])

    def _split(self, kept: Tensor) -> Tensor:
        """[B, heads, N, d] of a projection, or of what a norm of each head gives."""
        if kept.ndim == 3:
            return self._site.split(kept)
        return kept if self._site.heads_axis == 1 else kept.transpose(1, 2)
