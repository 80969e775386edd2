"""Edits step in where they were asked for, and nothing of them is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.hooks import edits_installed, plain_pass
from conceptloom.host.ports import (
    CrossAttentionCall,
    ForwardInfo,
    Place,
    ResNetSite,
    StopForward,
    TransformerSite,
    UNetEdit,
)

from ..tiny_models import FAMILIES, assert_unchanged, hooks_on, noise, snapshot, tiny_host

POINTS = (
    "cross",
    "cross_key",
    "cross_value",
    "self_query",
    "self_key",
    "projection",
    "resnet",
)


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> DiffusersHost:
    return tiny_host(request.param)


class Everywhere(UNetEdit):
    """Asks for hooks at some points and sites, writes down what fires, and may change it."""

    def __init__(
        self,
        points: tuple[str, ...] = POINTS,
        names: tuple[str, ...] | None = None,
        change: Callable[[Tensor], Tensor | None] = lambda output: None,
    ) -> None:
        self.points, self.names, self.change = points, names, change
        self.fired: list[tuple[str, str, int]] = []
        self.infos: list[ForwardInfo] = []
        self.ended = 0

    def begin(self, info: ForwardInfo) -> None:
        self.infos.append(info)

    def end(self) -> None:
        self.ended += 1

    def _wants(self, point: str, site: TransformerSite | ResNetSite) -> bool:
        return point in self.points and (self.names is None or site.name in self.names)

    def wants_cross_attention(self, site: TransformerSite) -> bool:
        return self._wants("cross", site)

    def wants_cross_projections(self, site: TransformerSite) -> bool:
        return self._wants("cross_key", site) or self._wants("cross_value", site)

    def wants_self_attention(self, site: TransformerSite) -> bool:
        return self._wants("self_query", site) or self._wants("self_key", site)

    def wants_projection(self, site: TransformerSite) -> bool:
        return self._wants("projection", site)

    def wants_resnet(self, site: ResNetSite) -> bool:
        return self._wants("resnet", site)

    def _fire(self, point: str, site: Any, layer: int, output: Tensor) -> Tensor | None:
        if point not in self.points:
            return None
        self.fired.append((point, site.name, layer))
        return self.change(output)

    def cross_attention(self, call: CrossAttentionCall) -> Tensor | None:
        return self._fire("cross", call.site, call.layer, call.output)

    def cross_key(
        self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("cross_key", site, layer, key)

    def cross_value(
        self, site: TransformerSite, layer: int, value: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("cross_value", site, layer, value)

    def self_query(
        self, site: TransformerSite, layer: int, query: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("self_query", site, layer, query)

    def self_key(
        self, site: TransformerSite, layer: int, key: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("self_key", site, layer, key)

    def projection(
        self, site: TransformerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        return self._fire("projection", site, 0, output)

    def resnet(self, site: ResNetSite, output: Tensor, info: ForwardInfo) -> Tensor | None:
        return self._fire("resnet", site, 0, output)


def predict(host: DiffusersHost, *edits: UNetEdit, rows: int = 1, **more: Any) -> Tensor:
    prompt = host.encode_prompt("a photo of a cat")
    at = torch.full((rows,), 300)
    with torch.no_grad():
        return host.predict(noise(rows, 4, 16, 16), at, [prompt], edits, **more)


def expected(host: DiffusersHost, names: tuple[str, ...] | None = None) -> set[tuple]:
    wanted = {
        (point, site.name, layer)
        for site in host.sites.transformers
        for point in ("cross", "cross_key", "cross_value", "self_query", "self_key")
        for layer in range(site.depth)
    }
    wanted |= {("projection", site.name, 0) for site in host.sites.transformers}
    wanted |= {("resnet", site.name, 0) for site in host.sites.resnets}
    return {place for place in wanted if names is None or place[1] in names}


def test_every_hook_point_fires_once_everywhere(host: DiffusersHost) -> None:
    edit = Everywhere()
    predict(host, edit)
    assert len(edit.fired) == len(set(edit.fired))
    assert set(edit.fired) == expected(host)


@pytest.mark.parametrize("point", POINTS)
def test_a_hook_point_fires_only_where_it_was_asked_for(host: DiffusersHost, point: str) -> None:
    sites = host.sites.resnets if point == "resnet" else host.sites.transformers
    names = (sites[1].name, sites[-1].name)
    edit = Everywhere((point,), names)
    predict(host, edit)
    assert set(edit.fired) == {place for place in expected(host, names) if place[0] == point}


def test_an_edit_that_wants_nothing_puts_no_hook_on(host: DiffusersHost) -> None:
    seen: list[int] = []

    class Counts(UNetEdit):
        def begin(self, info: ForwardInfo) -> None:
            seen.append(hooks_on(host))

    before = hooks_on(host)
    probe = host.unet.conv_in.register_forward_hook(lambda *_: seen.append(hooks_on(host)))
    try:
        predict(host, Counts(), Counts())
    finally:
        probe.remove()
    assert seen == [before + 1] * 3


def test_sites_fire_in_the_order_in_which_they_are_listed(host: DiffusersHost) -> None:
    edit = Everywhere(("projection",))
    predict(host, edit)
    assert [name for _, name, _ in edit.fired] == [s.name for s in host.sites.transformers]
    edit = Everywhere(("resnet",))
    predict(host, edit)
    assert [name for _, name, _ in edit.fired] == [s.name for s in host.sites.resnets]


@pytest.mark.parametrize("change", [lambda o: o, lambda o: None, lambda o: o.clone()])
def test_edits_that_return_what_came_change_nothing(
    host: DiffusersHost, change: Callable[[Tensor], Tensor | None]
) -> None:
    plain = predict(host)
    assert torch.equal(predict(host, Everywhere(change=change)), plain)
    assert torch.equal(predict(host, Everywhere(change=change), Everywhere()), plain)


@pytest.mark.parametrize("point", POINTS)
def test_each_hook_point_reaches_the_prediction(host: DiffusersHost, point: str) -> None:
    # a query or key that is only scaled moves little through softmax, so turn it around
    edit = Everywhere((point,), change=lambda output: -output)
    assert not torch.allclose(predict(host, edit), predict(host), atol=1e-7)


def test_later_edits_see_what_earlier_ones_left(host: DiffusersHost) -> None:
    plain = predict(host)
    twice = [Everywhere(change=lambda o: o * 2), Everywhere(change=lambda o: o / 2)]
    assert torch.equal(predict(host, *twice), plain)
    order = [Everywhere(change=lambda o: o * 2), Everywhere(change=lambda o: o + 1)]
    swapped = order[::-1]
    assert not torch.equal(predict(host, *order), predict(host, *swapped))


def test_a_pass_inside_of_another_one_meets_its_own_edits_only(host: DiffusersHost) -> None:
    plain, tripled = predict(host), predict(host, Everywhere(change=lambda o: o * 3))
    found: list[Tensor] = []

    class Inside(UNetEdit):
        def begin(self, info: ForwardInfo) -> None:
            with plain_pass():
                found.extend([predict(host), predict(host, Everywhere(change=lambda o: o * 3))])

    outer = Everywhere(change=lambda o: o * 2)
    doubled = predict(host, outer)
    with edits_installed(host.sites, [outer], outer.infos[0]):
        assert torch.equal(predict(host, Inside()), doubled)
    assert torch.equal(found[0], plain)
    assert torch.equal(found[1], tripled)


class Broken(Exception):
    pass


@pytest.mark.parametrize(
    ("point", "error"),
    [(p, Broken) for p in POINTS] + [("cross", StopForward), ("resnet", KeyboardInterrupt)],
)
def test_no_hook_is_left_after_an_edit_raised(
    host: DiffusersHost, point: str, error: type[BaseException]
) -> None:
    def fail(output: Tensor) -> Tensor:
        raise error

    before, plain = snapshot(host), predict(host)
    edit, bystander = Everywhere((point,), change=fail), Everywhere()
    with pytest.raises(error):
        predict(host, bystander, edit)
    assert_unchanged(before, host)
    assert (edit.ended, bystander.ended) == (1, 1)
    assert torch.equal(predict(host), plain)
    # not even the cross-attention that was under way is still taken for edited
    again = Everywhere(("cross",))
    predict(host, again)
    assert len(again.fired) == sum(s.depth for s in host.sites.transformers)


def test_no_hook_is_left_when_an_edit_fails_to_begin(host: DiffusersHost) -> None:
    class NoStart(UNetEdit):
        def begin(self, info: ForwardInfo) -> None:
            raise Broken

    before, first = snapshot(host), Everywhere()
    with pytest.raises(Broken):
        predict(host, first, NoStart())
    assert_unchanged(before, host)
    assert first.ended == 1


def test_no_hook_is_left_when_asking_what_an_edit_wants_fails(host: DiffusersHost) -> None:
    class Unsure(UNetEdit):
        def wants_resnet(self, site: ResNetSite) -> bool:
            raise Broken

    before, first = snapshot(host), Everywhere()
    with pytest.raises(Broken):
        predict(host, first, Unsure())
    assert_unchanged(before, host)


def test_a_good_pass_leaves_no_hook(host: DiffusersHost) -> None:
    before = snapshot(host)
    predict(host, Everywhere(change=lambda o: o * 1.5))
    assert_unchanged(before, host)


def test_edits_see_which_rows_are_conditional(host: DiffusersHost) -> None:
    edit = Everywhere(())
    predict(host, edit, rows=3, conditional=[False, True, True])
    predict(host, edit, rows=2)
    assert [info.conditional for info in edit.infos] == [(False, True, True), (True, True)]
    assert edit.infos[0].latent_shape == (3, 4, 16, 16)
    assert edit.infos[0].timesteps.tolist() == [300] * 3
    assert edit.infos[0].context_length == 77


def test_an_edit_of_one_row_leaves_the_others_alone(host: DiffusersHost) -> None:
    def second_row(output: Tensor) -> Tensor:
        changed = output.clone()
        changed[1] *= 3
        return changed

    plain = predict(host, rows=2)
    edited = predict(host, Everywhere(change=second_row), rows=2)
    assert torch.equal(edited[0], plain[0])
    assert not torch.equal(edited[1], plain[1])


def test_an_edit_may_attend_to_another_context(host: DiffusersHost) -> None:
    """Several contexts on one query (region fusing): recomputing one's own gives the same."""
    seen = []

    class Recompute(UNetEdit):
        def wants_cross_attention(self, site: TransformerSite) -> bool:
            return True

        def cross_attention(self, call: CrossAttentionCall) -> Tensor:
            module, heads = call.module, call.site.heads
            context = prompt.context.expand(call.query.shape[0], -1, -1)
            key, value = module.to_k(context), module.to_v(context)
            assert torch.equal(key, call.key)

            def split(x: Tensor) -> Tensor:
                return x.unflatten(-1, (heads, -1)).transpose(1, 2)

            q, k, v = split(call.query), split(key), split(value)
            mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
            output = module.to_out[0](mixed.transpose(1, 2).flatten(2))
            seen.append(float((output - call.output).abs().max()))
            return output

    prompt = host.encode_prompt("a photo of a cat")
    edited = predict(host, Recompute(), Everywhere(("cross",)), rows=2)
    assert len(seen) == sum(site.depth for site in host.sites.transformers)
    assert max(seen) < 1e-5
    assert torch.allclose(edited, predict(host, rows=2), atol=1e-5)


def test_projection_is_a_convolution_or_a_linear_layer() -> None:
    shapes = {}
    for family in ("sd1", "sd2"):
        host, seen = tiny_host(family), []

        class Look(UNetEdit):
            def wants_projection(self, site: TransformerSite) -> bool:
                return True

            def projection(
                self,
                site: TransformerSite,
                inputs: Tensor,
                output: Tensor,
                info: ForwardInfo,
                seen: list = seen,
            ) -> None:
                seen.append((site.level, tuple(inputs.shape), tuple(output.shape)))

        predict(host, Look(), rows=2)
        shapes[family] = seen[0]
    assert shapes == {
        "sd1": (1, (2, 16, 16, 16), (2, 16, 16, 16)),
        "sd2": (1, (2, 256, 16), (2, 256, 16)),
    }


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (15, 9), (13, 18), (8, 24)])
def test_grids_are_those_of_the_features(host: DiffusersHost, size: tuple[int, int]) -> None:
    grids: list[tuple[int, int, int]] = []

    class Grids(UNetEdit):
        def begin(self, info: ForwardInfo) -> None:
            self.info = info

        def wants_cross_attention(self, site: TransformerSite) -> bool:
            return True

        def wants_resnet(self, site: ResNetSite) -> bool:
            return True

        def cross_attention(self, call: CrossAttentionCall) -> None:
            height, width = call.info.grid(call.site)
            grids.append((call.query.shape[1], height, width))
            assert call.query.shape[2] == call.site.width
            assert call.key.shape[1] == call.info.context_length

        def resnet(self, site: ResNetSite, output: Tensor, info: ForwardInfo) -> None:
            assert tuple(output.shape[-2:]) == self.info.grid(site)
            assert output.shape[1] == site.width

    prompt = host.encode_prompt("cat")
    host.predict(noise(1, 4, *size), torch.tensor([7]), [prompt], [Grids()])
    assert all(cells == height * width for cells, height, width in grids)
    assert len(grids) == sum(site.depth for site in host.sites.transformers)


def test_captured_maps_equal_a_handwritten_softmax(host: DiffusersHost) -> None:
    sites = [s for s in host.sites.transformers if s.level == 2 and s.place is not Place.MID]
    calls: list[CrossAttentionCall] = []

    class Keep(UNetEdit):
        def wants_cross_attention(self, site: TransformerSite) -> bool:
            return site in sites

        def cross_attention(self, call: CrossAttentionCall) -> None:
            calls.append(call)

    capture, keep = AttentionCapture(sites), Keep()
    predict(host, capture, keep, rows=2)
    maps = capture.maps([TokenQuery(1, (2, 5), 77), TokenQuery(0, (1,), 77)])
    by_hand = torch.zeros(2, 8, 8)
    count = 0
    for call in calls:
        width = call.site.width // call.site.heads
        for head in range(call.site.heads):
            part = slice(head * width, (head + 1) * width)
            logits = call.query[..., part] @ call.key[..., part].mT / width**0.5
            probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
            by_hand[0] += (probs[1, :, 2] + probs[1, :, 5]).view(8, 8)
            by_hand[1] += probs[0, :, 1].view(8, 8)
            count += 1
    assert torch.allclose(maps, by_hand / count, atol=1e-6)
    assert maps.shape == (2, 8, 8)


def test_a_capture_changes_nothing_and_lets_gradients_through(host: DiffusersHost) -> None:
    prompt = host.encode_prompt("a photo of a cat")
    sites = [s for s in host.sites.transformers if s.level == 2]
    capture = AttentionCapture(sites)
    latent = noise(1, 4, 16, 16).requires_grad_()
    output = host.predict(latent, torch.tensor([300]), [prompt], [capture])
    assert torch.equal(output.detach(), predict(host))
    (grad,) = torch.autograd.grad(capture.maps([TokenQuery(0, (2,), 77)]).sum(), latent)
    assert grad.abs().sum() > 0


def test_a_capture_may_stop_the_pass_behind_its_last_block(host: DiffusersHost) -> None:
    sites = [site for site in host.sites.transformers if site.place is Place.DOWN]
    stopping, whole = AttentionCapture(sites, stop=True), AttentionCapture(sites)
    behind = Everywhere(("projection",))
    predict(host)
    before = hooks_on(host)
    with pytest.raises(StopForward):
        predict(host, stopping, behind)
    assert {name for _, name, _ in behind.fired} < {site.name for site in host.sites.transformers}
    predict(host, whole)
    query = [TokenQuery(0, (1,), 77)]
    assert torch.equal(stopping.maps(query, (8, 8)), whole.maps(query, (8, 8)))
    assert hooks_on(host) == before
