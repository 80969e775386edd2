"""A layer that runs and passes an edit by is an error; one that does not run is none."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conceptloom.attention.maps import AttentionCapture
from conceptloom.errors import MissedSitesError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.hooks import edits_installed
from conceptloom.host.ports import StopForward

from ..tiny_models import hooks_on, tiny_host
from .edit_cases import POINTS, Everywhere, predict


@pytest.fixture
def host() -> DiffusersHost:
    return tiny_host("sd1")


def fused(linear: Any) -> Callable[..., Any]:
    """What a layer computes, without calling the layer: as a fused kernel does."""
    return lambda inputs, *_, **__: torch.nn.functional.linear(inputs, linear.weight, linear.bias)


def replayed(module: torch.nn.Module, example: Any) -> None:
    """The module gives again what it once gave, as a recorded graph does."""
    module.forward = lambda *_, **__: example  # type: ignore[method-assign]


@pytest.mark.parametrize("point", POINTS)
def test_a_graph_that_is_replayed_is_noticed(host: DiffusersHost, point: str) -> None:
    edit, before = Everywhere((point,)), hooks_on(host)
    output = predict(host, edit)  # recorded: the hooks were called
    replayed(host.unet, SimpleNamespace(sample=output))
    with pytest.raises(MissedSitesError, match=r"did not call Everywhere.*graph"):
        predict(host, edit)
    assert torch.equal(predict(host), output), "a pass without edits needs no hooks"
    assert hooks_on(host) == before
    assert edit.ended == 2


def test_a_fused_projection_is_noticed_in_one_block(host: DiffusersHost) -> None:
    site = host.sites.transformers[1]
    attention, kernel = (
        site.module.transformer_blocks[0].attn2,
        fused(site.module.transformer_blocks[0].attn2.to_q),
    )

    def forward(hidden: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        query = kernel(hidden)
        return attention.to_out[0](query)

    attention.forward = forward
    with pytest.raises(MissedSitesError, match=rf"1 of \d+ places.*{site.name}.*fused kernel"):
        predict(host, Everywhere(("cross",)))
    predict(host, Everywhere(("projection",)))


def test_a_block_that_another_pack_replaced_is_noticed(host: DiffusersHost) -> None:
    site = host.sites.transformers[0]
    site.module.forward = lambda hidden, *_, **__: (hidden,)
    with pytest.raises(MissedSitesError, match=rf"first at {site.name}"):
        predict(host, Everywhere(("projection",)))


def test_a_block_that_is_left_out_is_no_fault(host: DiffusersHost) -> None:
    """DeepCache and its like take what inner blocks gave at an earlier step."""
    edit = Everywhere(("projection",))
    predict(host, edit)
    middle, fired = host.unet.mid_block, len(edit.fired)
    middle.forward = lambda hidden, *_, **__: hidden
    predict(host, edit)
    assert len(edit.fired) == 2 * fired - 1
    only = Everywhere(("projection",), ("middle_block.1",))
    with pytest.raises(MissedSitesError, match="1 of 1 places"):
        predict(host, only)
    del middle.forward
    predict(host, only)
    middle.forward = lambda hidden, *_, **__: hidden
    predict(host, only)


def test_a_pass_that_ends_early_is_no_fault(host: DiffusersHost) -> None:
    first = host.sites.transformers[:1]
    with pytest.raises(StopForward):
        predict(host, AttentionCapture(first, stop=True), Everywhere())


def test_a_network_that_somebody_answers_for_is_no_fault(host: DiffusersHost) -> None:
    edit = Everywhere()
    predict(host, edit)
    with edits_installed(host.sites, [edit], edit.infos[0]) as coverage:
        coverage.network_ran = False
    with (
        pytest.raises(MissedSitesError),
        edits_installed(host.sites, [edit], edit.infos[0]),
    ):
        pass
