"""LAG and found masks on Z-Image and Krea 2: which tokens take what, equal in both hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_joint import LATENT, ROWS, Network, merged_layers
from test_single_stream import PROMPT
from tiny_models import Graph
from tiny_single import graph_of_single, single_kind

from conceptloom.attention.lag import LagEdit
from conceptloom.attention.lag_config import LagConfig
from conceptloom.attention.lag_maps import LagMaps
from conceptloom.attention.lag_plan import LagConcept
from conceptloom.attention.local_lora import LocalLora
from conceptloom.attention.local_setup import local_setup
from conceptloom.concepts.lora_file import LoraFile
from conceptloom.concepts.low_rank import LowRank
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.ports import Role

TOKENS = (("cat", "mug", *range(ROWS - 2)), ("dog", *range(ROWS - 1)))


kind = single_kind


def residuals(network: Network, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    made = {}
    for number, site in enumerate(s for s in network.sites.layers if Role.PROJ_OUT in s.roles):
        generator = torch.Generator().manual_seed(seed + number)
        width = site.outputs
        up = 0.5 * torch.randn(width, 3, generator=generator)
        made[site.weight] = up, torch.randn(3, width, generator=generator) / width**0.5
    return made


def concept(network: Network, handle: str, word: tuple[Any, ...] = (), **config: Any) -> LagConcept:
    return LagConcept(
        handle=handle, class_tokens=word, residuals=residuals(network, len(handle) * 10),
        config=LagConfig(**config),
    )  # fmt: skip


def run(network: Network, edit: LagEdit, **changed: Any) -> torch.Tensor:
    return network([edit], **{"prompts": TOKENS, "encoded": (0, 1), **changed})


def test_both_hosts_say_the_same(kind: str):
    outputs, masks = [], []
    for in_diffusers in (False, True):
        network, maps = Network(kind, in_diffusers), LagMaps()
        edit = LagEdit([concept(network, "cat", (0,)), concept(network, "mug")], 1.0, maps)
        outputs.append(run(network, edit))
        masks.append(maps.newest((5, 6)))
        assert (outputs[-1] - network()).abs().max() > 0.01
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    assert torch.equal(*masks)
    assert masks[0].shape[:2] == (2, 2)
    assert 0 < masks[0][0].sum() <= 30  # the second prompt says neither
    assert masks[0][1].sum() == 0


def test_strength_0_is_the_base_model(kind: str):
    network = Network(kind, False)
    assert torch.equal(run(network, LagEdit([concept(network, "cat", strength=0)])), network())


def test_everywhere_is_the_merged_residual(kind: str):
    for in_diffusers in (False, True):
        network = Network(kind, in_diffusers)
        one = concept(network, "cat", localised=False)
        with merged_layers(network, {n: u @ d for n, (u, d) in one.residuals.items()}):
            expected = network()
        torch.testing.assert_close(run(network, LagEdit([one])), expected, rtol=1e-4, atol=1e-5)


def test_positions_and_own_words_take_the_residual(kind: str):
    """Each token of an attention's output: masked positions, and the two words of the first row."""
    network = Network(kind, False)
    maps, seen = LagMaps(), {}
    edit = LagEdit([concept(network, "cat", ("mug",))], 1.0, maps)
    first = network.sites.attentions[0]
    layer = edit.layer

    def spy(site: Any, inputs: Any, output: Any, info: Any) -> Any:
        changed = layer(site, inputs, output, info)
        if site.name == first.out.name:
            seen["changed"] = (changed - output).abs().amax(dim=2) > 0
        return changed

    edit.layer = spy
    run(network, edit)
    info_spans = network.sites.joint.order.spans(ROWS, 30)
    changed = seen["changed"][:, : info_spans.total]
    text = changed[:, info_spans.text]
    assert text[0].nonzero()[:, 0].tolist() == [0, 1]
    assert not changed[1].any()
    mask = maps.blocks()[first.block.name][0, 0].flatten() > 0
    start = info_spans.picture.start
    assert torch.equal(changed[0, start : start + 30], mask)
    assert int(mask.sum()) == 15


def test_prompts_of_unlike_length_find_masks_together(kind: str):
    """A batch in several passes has the masks that each picture has alone, from step to step.

    Of ten steps, two are for finding, so that one is blended with another.
    """
    graph: Graph = graph_of_single(kind)
    host = ComfyHost(graph.model, graph.clip)
    texts = (PROMPT, "a red mug and a teapot")
    generator = torch.Generator().manual_seed(5)
    changes = {}
    for site in host.sites.layers[:6]:
        rows, columns = host.weight(site.weight).shape
        up = 0.2 * torch.randn(rows, 2, generator=generator)
        down = torch.randn(2, columns, generator=generator) / columns**0.5
        changes[site.weight] = LowRank(up, down)

    def drawn(pictures: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        file = LoraFile(changes=changes, identity="one")
        lora = LocalLora(file=file, name="one", words="red", tokens=host.tokenize("red"))
        setup, shown = local_setup(host, [lora]), []
        prompts = [setup.encode(texts[n]) for n in pictures]
        edit = setup.edit(10, {p.text: p.tokens for p in prompts}, shown.append)
        latent, negative = LATENT[pictures], setup.encode("blurry")
        rows = len(pictures)
        for level in host.noise_path.levels(10)[:-1]:
            output = host.predict(
                torch.cat([latent] * 2), level.expand(2 * rows), [*prompts, *[negative] * rows],
                [edit], [True] * rows + [False] * rows,
            )  # fmt: skip
            latent = latent - 0.2 * (output[rows:] + 2 * (output[:rows] - output[rows:]))
        (mask,) = shown
        return latent, mask

    together = drawn([0, 1])
    for number in range(2):
        alone = drawn([number])
        torch.testing.assert_close(together[1][number], alone[1][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together[0][number], alone[0][0], rtol=1e-3, atol=1e-3)


def test_maps_of_unlike_prompts_are_those_of_each_alone(kind: str):
    """LAG in a batch of several parts: every picture's mean is over the passes that had it."""
    graph: Graph = graph_of_single(kind)
    host, network = ComfyHost(graph.model, graph.clip), Network(kind, False)
    red, prompts = host.tokenize("red"), []
    for text in (PROMPT, "a red mug and a teapot"):
        prompt = host.encode_prompt(text)
        place = prompt.find(red)[0]
        tokens = (*prompt.tokens[:place], "cat", *prompt.tokens[place + 1 :])
        prompts.append(replace(prompt, tokens=tokens))
    assert len({len(prompt.tokens) for prompt in prompts}) == 2

    def maps_of(pictures: list[int]) -> LagMaps:
        maps = LagMaps()
        edit = LagEdit([concept(network, "cat")], host.noise_path.last_t, maps)
        for level in host.noise_path.levels(3)[:-1]:
            chosen = [prompts[n] for n in pictures]
            host.predict(LATENT[pictures], level.expand(len(pictures)), chosen, [edit])
        return maps

    together = maps_of([0, 1])
    for number in range(2):
        alone = maps_of([number])
        for size in ((5, 6), (10, 12)):
            torch.testing.assert_close(together.averaged(size)[number], alone.averaged(size)[0])
            torch.testing.assert_close(together.newest(size)[number], alone.newest(size)[0])
        assert alone.averaged((5, 6)).mean() == pytest.approx(0.5, abs=0.02)
