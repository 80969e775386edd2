"""Whatever goes wrong in a pass, no hook of it is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import AttentionSite, ForwardInfo, StopForward, UNetEdit, UNetSites

from ..tiny_models import assert_unchanged, snapshot
from .edit_cases import POINTS, Everywhere, predict


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
        def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
            raise Broken

    before, first = snapshot(host), Everywhere()
    with pytest.raises(Broken):
        predict(host, first, Unsure())
    assert_unchanged(before, host)


def test_a_good_pass_leaves_no_hook(host: DiffusersHost) -> None:
    before = snapshot(host)
    predict(host, Everywhere(change=lambda o: o * 1.5))
    assert_unchanged(before, host)
