"""Edits step in where they were asked for, in their order, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.hooks import edits_installed, plain_pass
from conceptloom.host.ports import ForwardInfo, UNetEdit

from ..tiny_models import hooks_on
from .edit_cases import POINTS, Everywhere, points_of, predict


def expected(host: DiffusersHost, names: tuple[str, ...] | None = None) -> set[tuple]:
    wanted = {
        (point, site.name, layer)
        for site in host.sites.transformers
        for point in ("cross", "cross_key", "cross_value", "self_query", "self_key")
        for layer in range(site.depth)
    }
    wanted |= {("projection", site.name, 0) for site in host.sites.transformers}
    wanted |= {("resnet", site.name, 0) for site in host.sites.resnets}
    wanted = {place for place in wanted if names is None or place[1] in names}
    chosen = [s for s in host.sites.layers if s.block and (names is None or s.block.name in names)]
    points = points_of(host.sites)
    wanted |= {points[site] for site in chosen if points[site][0] == "layer"}
    attended = [s for s in host.sites.attentions if names is None or s.block.name in names]
    return wanted | {("attended", site.name, site.layer) for site in attended}


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


def test_a_plain_pass_on_one_device_leaves_those_on_others_alone(host: DiffusersHost) -> None:
    """The host may run copies of a UNet on several GPUs, each in a thread of its own."""
    inside, done = threading.Event(), threading.Event()

    def another_device() -> None:
        with plain_pass():
            inside.set()
            done.wait(timeout=60)

    edit, thread = Everywhere(), threading.Thread(target=another_device)
    predict(host, edit)
    once = len(edit.fired)
    with edits_installed(host.sites, [edit], edit.infos[0]):
        thread.start()
        inside.wait(timeout=60)
        predict(host)
        done.set()
        thread.join()
    assert len(edit.fired) == 2 * once
