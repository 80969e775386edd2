"""Edits under the host's own sampler nodes: any sampler, any stacking, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from nodes import KSampler
from tiny_models import Graph, assert_same_state, left_behind, state_of

from conceptloom.errors import UnsupportedModelError
from conceptloom.host.comfyui.edits import SamplingRun, with_edits
from conceptloom.host.ports import Role, UNetEdit


def conditioning(graph: Graph, text: str):
    return graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(text))


def sample(
    graph: Graph, model, *, steps: int = 3, cfg: float = 4.0, sampler: str = "euler", **more
):
    empty = {"samples": torch.zeros(2, 4, 8, 10)}
    positive, negative = conditioning(graph, "a red cat"), conditioning(graph, "dull, " * 40)
    node = KSampler()
    result = node.sample(
        model, 5, steps, cfg, sampler, "normal", positive, negative, empty, 1.0, **more
    )
    return result[0]["samples"]


class Watch(UNetEdit):
    """Counts, and may multiply the residual of every projection."""

    made: list[Watch]

    def __init__(self, run: SamplingRun, factor: float = 1.0, crash_at: int | None = None) -> None:
        self.run, self.factor, self.crash_at = run, factor, crash_at
        self.infos, self.ended = [], 0

    def begin(self, info) -> None:
        self.infos.append(info)

    def end(self) -> None:
        self.ended += 1

    def wanted_layers(self, sites):
        return [site for site in sites.layers if Role.PROJ_OUT in site.roles]

    def layer(self, site, inputs, output, info):
        if self.crash_at is not None and len(self.infos) > self.crash_at:
            raise RuntimeError("crash in the middle of sampling")
        return output * self.factor if self.factor != 1.0 else None


def watched(model, key="test", **how):
    made: list[Watch] = []

    def make(run: SamplingRun):
        made.append(Watch(run, **how))
        return [made[-1]]

    return with_edits(model, key, make), made


def test_watching_changes_nothing_and_sees_every_pass(graph: Graph):
    before = state_of(graph.model)
    plain = sample(graph, graph.model)
    model, made = watched(graph.model)
    assert torch.equal(sample(graph, model), plain)
    assert len(made) == 1, "made once for the run"
    watch = made[0]
    assert watch.run.sigmas is not None
    assert len(watch.run.sigmas) == 4
    rows = sum(len(info.conditional) for info in watch.infos)
    assert rows == 3 * 4, "two pictures, with and without prompt, three steps"
    assert sum(sum(info.conditional) for info in watch.infos) == rows / 2
    assert watch.ended == len(watch.infos)
    assert all(info.timesteps.shape == (len(info.conditional),) for info in watch.infos)
    assert all(info.context_length in (77, 77 * 2) for info in watch.infos)
    expected = watch.run.noise_path.level_at(watch.infos[0].timesteps.long())
    torch.testing.assert_close(expected.cpu(), watch.run.sigmas[:1].expand_as(expected))
    sample(graph, model)
    assert len(made) == 2, "fresh state for the next run"
    assert_same_state(graph.model, before)


def test_prompts_in_one_call_and_apart(sd1: Graph, monkeypatch: pytest.MonkeyPatch):
    pictures, calls = [], []
    for memory in (0.0, 1e30):  # what one pass is said to need decides how many rows fit
        monkeypatch.setattr(type(sd1.model.model), "memory_required", lambda *a, m=memory, **k: m)
        model, made = watched(sd1.model, factor=0.5)
        pictures.append(sample(sd1, model))
        calls.append([info.conditional for info in made[0].infos])
    torch.testing.assert_close(*pictures, rtol=1e-3, atol=1e-3)
    assert [sorted(set(rows)) for rows in calls[0]] == [[False, True]] * 3
    assert sorted(map(set, calls[1]), key=str) == [{False}] * 3 + [{True}] * 3


def test_edits_reach_the_picture_and_the_incoming_model_stays(sd1: Graph):
    plain = sample(sd1, sd1.model)
    model, _ = watched(sd1.model, factor=0.5)
    assert not torch.allclose(sample(sd1, model), plain, atol=1e-3)
    assert torch.equal(sample(sd1, sd1.model), plain)


def test_two_applications_compose(sd1: Graph):
    half, _ = watched(sd1.model, factor=0.5)
    restored, _ = watched(half, factor=2.0)
    torch.testing.assert_close(sample(sd1, restored), sample(sd1, sd1.model))
    quarter, _ = watched(half, key="other", factor=0.5)
    at_once, _ = watched(sd1.model, factor=0.25)
    torch.testing.assert_close(sample(sd1, quarter), sample(sd1, at_once))


def test_edits_that_project_do_not_disturb_the_next_application(sd1: Graph):
    seen = []

    class Project(UNetEdit):
        def wanted_attentions(self, sites):
            return sites.cross_attentions

        def attention(self, call):
            site = call.site
            other = torch.ones(1, 5, site.key.module.in_features)
            site.out.module(site.value.module(other) + site.key.module(other))

    class Look(Project):
        def attention(self, call):
            seen.append(call.key.shape[2])

    first = with_edits(sd1.model, "project", lambda run: [Project()])
    second = with_edits(first, "look", lambda run: [Look()])
    assert torch.equal(sample(sd1, second, steps=1), sample(sd1, sd1.model, steps=1))
    assert seen
    assert set(seen) <= {77, 77 * 2}


@pytest.mark.parametrize("error", ["crash", "interrupt"])
def test_a_crash_inside_a_sampler_leaves_nothing(sd1: Graph, error: str):
    import comfy.model_management as management

    plain, before = sample(sd1, sd1.model), state_of(sd1.model)
    model, made = watched(sd1.model, factor=2.0, crash_at=1 if error == "crash" else None)
    if error == "crash":
        with pytest.raises(RuntimeError, match="middle of sampling"):
            sample(sd1, model)
        assert made[0].ended == len(made[0].infos)
    else:

        def cancel(*args):
            raise management.InterruptProcessingException

        stopped = with_edits(model, "cancel", lambda run: [cancel()])
        with pytest.raises(management.InterruptProcessingException):
            sample(sd1, stopped)
    assert_same_state(sd1.model, before)
    for place in ("outer_sample", "diffusion_model"):
        held = [cell.cell_contents for cell in model.wrappers[place]["test"][0].__closure__]
        assert [slot.run for slot in held if hasattr(slot, "run")] == [None]
    assert torch.equal(sample(sd1, sd1.model), plain)


def test_clones_loras_and_copied_options_carry_the_edits(sd1: Graph):
    model, made = watched(sd1.model, factor=0.5)
    edited = sample(sd1, model)
    later = model.clone()
    later.model_options = copy.deepcopy(later.model_options)
    later.wrappers = copy.deepcopy(later.wrappers)
    assert torch.equal(sample(sd1, later), edited)
    name = "diffusion_model.middle_block.1.proj_out.bias"
    later.add_patches({name: ("diff", (torch.ones(64),))})
    assert not torch.allclose(sample(sd1, later), edited, atol=1e-3)
    assert len(made) == 3


def test_other_samplers_and_cfg_one(sd1: Graph):
    for sampler in ("dpmpp_2m", "heun", "ddim"):
        model, made = watched(sd1.model)
        assert torch.equal(
            sample(sd1, model, sampler=sampler), sample(sd1, sd1.model, sampler=sampler)
        )
    model, made = watched(sd1.model)
    sample(sd1, model, cfg=1.0)
    assert all(all(info.conditional) for info in made[0].infos)
    assert left_behind(sd1.model.model) == []


@pytest.mark.parametrize("memory", [0.0, 1e30])  # all prompts in one pass, and one by one
def test_the_positive_prompt_is_known_where_the_guider_asks_for_it_last(
    sd1: Graph, monkeypatch: pytest.MonkeyPatch, memory: float
):
    monkeypatch.setattr(type(sd1.model.model), "memory_required", lambda *a, **k: memory)
    model, made = watched(sd1.model)
    guider = Guider_DualCFG(model)
    texts = ("a red cat", "dull " * 100, "a dog " * 60)  # one chunk of tokens, and two
    guider.set_conds(*(conditioning(sd1, text) for text in texts))
    guider.set_cfg(4.0, 3.0)
    noise = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(0))
    guider.sample(noise, torch.zeros_like(noise), sampler_object("euler"), torch.tensor([9.0, 0.0]))
    rows = [shown for info in made[0].infos for shown in info.conditional]
    assert sorted(rows) == [False, False, True]
    if memory:
        by_length = {info.context_length: info.conditional[0] for info in made[0].infos}
        assert by_length == {77: True, 2 * 77: False}


def test_models_without_cross_attention_are_refused(sd1: Graph):
    model = copy.copy(sd1.model)
    model.model = torch.nn.Module()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(UnsupportedModelError, match="Linear"):
        with_edits(model, "test", lambda run: [])
