"""Start tokens: their numbers stay, their gradient goes."""

from __future__ import annotations

from typing import cast

import torch

from conceptloom.attention.start_token import StartDetached
from conceptloom.host.ports import ForwardInfo, LayerSite, TextLayout, UNetSites


def test_every_chunk_has_a_start_token_and_no_other_is_touched() -> None:
    edit, site = StartDetached(), cast(LayerSite, None)
    assert not edit.wanted_layers(UNetSites((), (), text=TextLayout(77, 1)))
    info = ForwardInfo((1, 4, 2, 2), torch.tensor([1]), (True,), 154)
    projected = torch.randn(2, 154, 3, requires_grad=True)
    changed = edit.layer(site, projected, projected, info)
    assert torch.equal(changed, projected)
    (gradient,) = torch.autograd.grad(changed.sum(), projected)
    without = (gradient == 0).all(dim=-1)
    assert without.nonzero().tolist() == [[row, at] for row in (0, 1) for at in (0, 77)]
    assert (gradient[~without] == 1).all()


def test_a_template_in_front_of_a_prompt_of_any_length_is_a_start() -> None:
    layout = TextLayout(before=3)
    assert layout.is_before(5, torch.device("cpu")).tolist() == [True] * 3 + [False] * 2
    assert not TextLayout().is_before(5, torch.device("cpu")).any()


def test_it_is_put_on_again_where_activations_are_computed_again() -> None:
    assert not StartDetached().reads_only
