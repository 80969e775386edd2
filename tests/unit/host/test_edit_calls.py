"""What an edit is told: rows, grids, shapes, and all that it takes to compute its own attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import (
    AttentionCall,
    AttentionKind,
    AttentionSite,
    Feature,
    ForwardInfo,
    LayerSite,
    Role,
    Rows,
    UNetEdit,
    UNetSites,
)

from ..tiny_models import noise, tiny_host
from .edit_cases import Everywhere, predict


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
        def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
            return sites.cross_attentions

        def attention(self, call: AttentionCall) -> Tensor:
            site, heads = call.site, call.site.heads
            context = prompt.context.expand(call.query.shape[0], -1, -1)
            key, value = site.key.module(context), site.value.module(context)
            assert torch.equal(key, call.flat_key)
            assert torch.equal(call.context, context)

            def split(x: Tensor) -> Tensor:
                return x.unflatten(-1, (heads, -1)).transpose(1, 2)

            q, k, v = call.query, split(key), split(value)
            assert torch.equal(v, call.value)
            mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
            output = site.out.module(mixed.transpose(1, 2).flatten(2))
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
            def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
                return [site for site in sites.layers if Role.PROJ_OUT in site.roles]

            def layer(
                self,
                site: LayerSite,
                inputs: Tensor,
                output: Tensor,
                info: ForwardInfo,
                seen: list = seen,
            ) -> None:
                seen.append((site.downsample, tuple(inputs.shape), tuple(output.shape)))

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

        def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
            return sites.cross_attentions

        def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
            return [f.layer for f in sites.features if f.kind is Feature.RESIDUAL]

        def attention(self, call: AttentionCall) -> None:
            height, width = call.info.grid(call.site)
            grids.append((call.query.shape[2], height, width))
            assert call.flat_query.shape[2] == call.site.block.width
            assert call.key.shape[2] == call.info.context_length

        def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> None:
            assert tuple(output.shape[-2:]) == self.info.grid(site)
            assert site.block is not None
            assert output.shape[1] == site.block.width

    prompt = host.encode_prompt("cat")
    host.predict(noise(1, 4, *size), torch.tensor([7]), [prompt], [Grids()])
    assert all(cells == height * width for cells, height, width in grids)
    assert len(grids) == sum(site.depth for site in host.sites.transformers)


class AllLayers(UNetEdit):
    """Asks for every layer; adds `step` to what has a place in the picture where `mask` is 1."""

    def __init__(self, step: float = 0.0) -> None:
        self.step = step
        self.shapes: dict[str, tuple[LayerSite, tuple[int, ...], tuple[int, int]]] = {}

    def wanted_layers(self, sites: UNetSites) -> tuple[LayerSite, ...]:
        return sites.layers

    def layer(
        self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo
    ) -> Tensor | None:
        assert site.name not in self.shapes
        self.shapes[site.name] = (site, tuple(output.shape), info.grid(site))
        return output + self.step if self.step and site.rows is Rows.GRID else None


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (15, 9)])
def test_every_layer_tells_the_grid_of_its_output(
    host: DiffusersHost, size: tuple[int, int]
) -> None:
    edit, prompt = AllLayers(), host.encode_prompt("cat")
    with torch.no_grad():
        host.predict(noise(2, 4, *size), torch.tensor([7, 7]), [prompt], [edit])
    assert len(edit.shapes) == len(host.sites.layers)
    for site, shape, grid in edit.shapes.values():
        if site.rows is Rows.TEXT:
            assert shape[:2] == (2, len(prompt.tokens)), site.name
        elif site.rows is Rows.WHOLE:
            assert len(shape) == 2, site.name
        else:
            cells = shape[-2:] == grid if len(shape) == 4 else shape[1] == grid[0] * grid[1]
            assert cells, (site.name, shape, grid)


def test_an_edit_of_layers_changes_their_outputs_and_leaves_nothing(host: DiffusersHost) -> None:
    plain = predict(host)
    assert torch.equal(predict(host, AllLayers()), plain)
    assert not torch.allclose(predict(host, AllLayers(0.1)), plain)
    assert torch.equal(predict(host), plain)


class Reattending(UNetEdit):
    """Attends once more with what it is given, and projects a context of its own meanwhile."""

    def __init__(self, kind: AttentionKind) -> None:
        self.kind, self.largest, self.calls = kind, 0.0, 0

    def wanted_attended(self, sites: UNetSites) -> list[AttentionSite]:
        return [site for site in sites.attentions if site.kind is self.kind]

    def attended(self, call: AttentionCall) -> Tensor:
        again = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value)
        again = again.transpose(1, 2).flatten(2)
        self.largest = max(self.largest, float((again - call.output).abs().max()))
        self.calls += 1
        assert call.query.shape[1] == call.site.heads
        key = call.site.key.module  # of another context; no hook may hear of it
        key(torch.zeros(3, 5, key.in_features))
        return again


@pytest.mark.parametrize("kind", [AttentionKind.CROSS, AttentionKind.SELF])
def test_what_an_attention_hands_on_can_be_computed_again(
    host: DiffusersHost, kind: AttentionKind
) -> None:
    edit, layers = Reattending(kind), AllLayers()
    plain, edited = predict(host, rows=2), predict(host, layers, edit, edit, rows=2)
    assert edit.largest < 1e-5
    assert edit.calls == 2 * sum(site.depth for site in host.sites.transformers)
    assert torch.allclose(edited, plain, atol=1e-5)


def test_the_output_projection_takes_what_an_edit_attended(host: DiffusersHost) -> None:
    class Doubled(UNetEdit):
        def wanted_attended(self, sites: UNetSites) -> tuple[AttentionSite, ...]:
            return sites.attentions[:1]

        def attended(self, call: AttentionCall) -> Tensor:
            self.given = call.output * 2
            return self.given

        def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
            return [sites.attentions[0].out]

        def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> None:
            self.taken = inputs

    edit = Doubled()
    assert not torch.equal(predict(host, edit), predict(host))
    assert edit.taken is edit.given
