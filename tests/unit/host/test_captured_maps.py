"""Captured attention maps: what they hold, and that capturing changes nothing."""

from __future__ import annotations

import pytest
import torch

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import (
    AttentionCall,
    AttentionSite,
    Place,
    StopForward,
    UNetEdit,
    UNetSites,
)

from ..tiny_models import hooks_on, noise
from .edit_cases import Everywhere, predict


def test_captured_maps_equal_a_handwritten_softmax(host: DiffusersHost) -> None:
    blocks = [s for s in host.sites.transformers if s.downsample == 2 and s.place is not Place.MID]
    calls: list[AttentionCall] = []

    class Keep(UNetEdit):
        def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
            return [site for site in sites.cross_attentions if site.block in blocks]

        def attention(self, call: AttentionCall) -> None:
            calls.append(call)

    capture, keep = AttentionCapture(blocks), Keep()
    predict(host, capture, keep, rows=2)
    maps = capture.maps([TokenQuery(1, (2, 5), 77), TokenQuery(0, (1,), 77)])
    by_hand = torch.zeros(2, 8, 8)
    count = 0
    for call in calls:
        for head in range(call.site.heads):
            query, key = call.query[:, head], call.key[:, head]
            logits = query @ key.mT / query.shape[-1] ** 0.5
            probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
            by_hand[0] += (probs[1, :, 2] + probs[1, :, 5]).view(8, 8)
            by_hand[1] += probs[0, :, 1].view(8, 8)
            count += 1
    assert torch.allclose(maps, by_hand / count, atol=1e-6)
    assert maps.shape == (2, 8, 8)


def test_a_capture_changes_nothing_and_lets_gradients_through(host: DiffusersHost) -> None:
    prompt = host.encode_prompt("a photo of a cat")
    sites = [s for s in host.sites.transformers if s.downsample == 2]
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
