"""Puts the edits of one forward pass on a UNet, and takes them off again.

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

from .coverage import Coverage
from .ports import (
    AttentionCall,
    AttentionSite,
    CrossAttentionCall,
    ForwardInfo,
    LayerSite,
    ResNetSite,
    Rows,
    TransformerSite,
    UNetEdit,
    UNetSites,
)
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
    return nullcontext(), _hooked(changing, Coverage())


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
    wanted: dict[nn.Module, Site] = {}  # blocks
    layers = _asked((e.wanted_layers(one.sites), e) for e in one.edits)
    norms = {layer.name: layer.module for layer in one.sites.layers if "out_layers.0" in layer.name}
    for layer, edits in layers.items():  # before those that keep what these leave
        place = layer.block or layer
        wanted[place.module] = place
        hook = _on_layer(layer, edits, one.info, coverage)
        if layer.rows is Rows.WHOLE and (norm := norms.get(f"{place.name}.out_layers.0")):
            yield from _spread_hooks(layer.module, norm, hook)
        else:
            yield _on(layer.module, hook)
    for site in one.sites.transformers:
        for hook in _transformer_hooks(site, one.edits, one.info, coverage):
            wanted[site.module] = site
            yield hook
    attended = _asked((e.wanted_attended(one.sites), e) for e in one.edits)
    for attention, edits in attended.items():
        wanted[attention.block.module] = attention.block
        yield from _attended_hooks(attention, edits, one.info, coverage)
    for site in one.sites.resnets:
        if residuals := [e for e in one.edits if e.wants_resnet(site)]:
            changes = [_bind(e.resnet, one.info, site) for e in residuals]
            reached = coverage.expect(site.name, residuals)
            yield _on(site.last_layer, _on_output(changes, reached))
            wanted[site.module] = site
    if wanted:  # the ends run in every pass, also where others leave inner blocks out
        ends = [*one.sites.resnets[:1], *one.sites.resnets[-1:]]
        for module, site in (wanted | {end.module: end for end in ends}).items():
            yield _at(module, site, coverage)


def _asked(
    wishes: Iterable[tuple[Iterable[_AnySite], UNetEdit]],
) -> dict[_AnySite, list[UNetEdit]]:
    """Site -> the edits that ask for it, in their order."""
    edits_at: dict[_AnySite, list[UNetEdit]] = {}
    for sites, edit in wishes:
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
        for edit in edits:
            changed = edit.layer(site, args[0], output, info)
            output = output if changed is None else changed
        return output

    return hook


def _spread_hooks(layer: nn.Module, norm: nn.Module, hook: Callable[..., Tensor]) -> Iterator[Any]:
    """Of a layer whose output is spread over the grid and added there, just before a norm.

    An edit may give every position a vector of its own, [B, C, h, w]. Not every host takes that
    from the layer, so what differs is added where the norm reads it.
    """
    depth, differs = _depth.get(), list[Tensor]()

    def changed(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        found = hook(module, args, output)
        if found.ndim == output.ndim:
            return found
        differs.append(found - output[..., None, None])
        return output

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        if not differs or _depth.get() != depth:
            return None
        return (args[0] + differs.pop().to(args[0]), *args[1:])

    yield _on(layer, changed)
    yield norm.register_forward_pre_hook(before_norm)


def _attended_hooks(
    site: AttentionSite, edits: Sequence[UNetEdit], info: ForwardInfo, coverage: Coverage
) -> Iterator[Any]:
    """Those that keep q, k and v, and one in front of the output projection."""
    reached, depth = coverage.expect(site.block.name, edits), _depth.get()
    projected: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if site.module not in _editing:
                projected[name] = output

        return hook

    def attended(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if site.module in _editing or len(projected) < 3 or _depth.get() != depth:
            return None
        reached()
        q, k, v = (_heads(projected.pop(name), site.heads) for name in ("q", "k", "v"))
        call = AttentionCall(site, info, q, k, v, args[0])
        _editing.add(site.module)
        try:
            for edit in edits:
                changed = edit.attended(call)
                if changed is not None:
                    call.output = changed
        finally:
            _editing.discard(site.module)
        return (call.output, *args[1:])

    for name, layer in (("q", site.query), ("k", site.key), ("v", site.value)):
        yield _on(layer.module, keep(name))
    yield site.out.module.register_forward_pre_hook(attended)


def _heads(projected: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d] -> [B, heads, N, d]"""
    return projected.unflatten(-1, (heads, -1)).transpose(1, 2)


def _transformer_hooks(
    site: TransformerSite, edits: Sequence[UNetEdit], info: ForwardInfo, coverage: Coverage
) -> Iterator[Any]:
    # before those below, which keep what these leave
    if projecting := [e for e in edits if e.wants_cross_projections(site)]:
        for layer in range(site.depth):
            attention = site.layer(layer).attn2
            key = [_bind(e.cross_key, info, site, layer) for e in projecting]
            value = [_bind(e.cross_value, info, site, layer) for e in projecting]
            for part, changes in ((attention.to_k, key), (attention.to_v, value)):
                reached = coverage.expect(site.name, projecting)
                yield _on(part, _on_host_output(attention, changes, reached))
    if cross := [e for e in edits if e.wants_cross_attention(site)]:
        for layer in range(site.depth):
            reached = coverage.expect(site.name, cross)
            yield from _cross_attention_hooks(site, layer, cross, info, reached)
    if own := [e for e in edits if e.wants_self_attention(site)]:
        for layer in range(site.depth):
            attention = site.layer(layer).attn1
            query = [_bind(e.self_query, info, site, layer) for e in own]
            key = [_bind(e.self_key, info, site, layer) for e in own]
            for part, changes in ((attention.to_q, query), (attention.to_k, key)):
                yield _on(part, _on_output(changes, coverage.expect(site.name, own)))
    if projections := [e for e in edits if e.wants_projection(site)]:
        reached = coverage.expect(site.name, projections)
        yield _on(site.proj_out, _on_projection(site, projections, info, reached))


def _bind(
    method: Callable[..., Tensor | None], info: ForwardInfo, *place: object
) -> Callable[[Tensor], Tensor | None]:
    return lambda output: method(*place, output, info)


def _on_output(
    changes: Sequence[Callable[[Tensor], Tensor | None]], reached: Callable[[], None]
) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        reached()
        for change in changes:
            changed = change(output)
            output = output if changed is None else changed
        return output

    return hook


def _on_host_output(
    attention: nn.Module,
    changes: Sequence[Callable[[Tensor], Tensor | None]],
    reached: Callable[[], None],
) -> Callable[..., Tensor]:
    """`_on_output` for what the host projects; what an edit projects for itself passes by."""
    change = _on_output(changes, reached)

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if attention in _editing else change(module, args, output)

    return hook


def _on_projection(
    site: TransformerSite,
    edits: Sequence[UNetEdit],
    info: ForwardInfo,
    reached: Callable[[], None],
) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        reached()
        for edit in edits:
            changed = edit.projection(site, args[0], output, info)
            output = output if changed is None else changed
        return output

    return hook


# Layers whose edits run at this moment: what an edit projects for itself is not the host's pass,
# neither for its own hooks nor for those of another application on the same layer.
_editing: set[nn.Module] = set()


def _cross_attention_hooks(
    site: TransformerSite,
    layer: int,
    edits: Sequence[UNetEdit],
    info: ForwardInfo,
    reached: Callable[[], None],
) -> Iterator[Any]:
    attention = site.layer(layer).attn2
    projected: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if attention not in _editing:
                projected[name] = output
                if name == "key":
                    projected["context"] = args[0]

        return hook

    def attended(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if attention in _editing or not {"query", "key"} <= projected.keys():
            return None
        reached()
        query, key, context = (projected.pop(name) for name in ("query", "key", "context"))
        call = CrossAttentionCall(site, layer, info, attention, query, key, output, context)
        _editing.add(attention)
        try:
            for edit in edits:
                changed = edit.cross_attention(call)
                if changed is not None:
                    call.output = changed
        finally:
            _editing.discard(attention)
        return call.output

    yield _on(attention.to_q, keep("query"))
    yield _on(attention.to_k, keep("key"))
    yield _on(_last_module(attention), attended)


def _last_module(attention: Any) -> nn.Module:
    """The module that every result of an attention comes out of.

    Where another pack replaces an attention, ComfyUI calls its layers one by one and never the
    attention itself; diffusers always calls it, and keeps `to_out` as a list.
    """
    return attention.to_out if isinstance(attention.to_out, nn.Sequential) else attention
