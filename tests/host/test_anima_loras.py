"""LoRAs on Anima: every layout is read, and each works in its own place, in both hosts."""

from __future__ import annotations

from typing import Any

import comfy.sd
import pytest
import torch
from anima_models import BLOCKS, anima, in_diffusers
from local_loras import local
from nodes import KSampler
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_setup import local_setup, lora_for
from conceptloom.concepts.lora_file import lora_of
from conceptloom.concepts.lora_keys import key_map
from conceptloom.errors import BaseMismatchError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.lora import host_key_map
from conceptloom.host.ports import Role
from conceptloom.host.roles import roles_of

PROMPT = "a photo of a red cat and a small dog"
LATENT = torch.randn(1, 16, 12, 20, generator=torch.Generator().manual_seed(1))
AT = torch.tensor([0.7])
ONES, ZEROS = torch.ones(12, 20), torch.zeros(12, 20)
LEFT = torch.zeros(12, 20)
LEFT[:, :8] = 1
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def graph() -> Graph:
    return anima()


@pytest.fixture
def host(graph: Graph) -> ComfyHost:
    return ComfyHost(graph.model, graph.clip)


@pytest.fixture(scope="module")
def other() -> Any:
    pytest.importorskip("diffusers")
    return in_diffusers(anima())


def lora(host: ComfyHost, seed: int = 0, size: float = 0.4, rank: int = 2) -> Tensors:
    """On every linear layer of the blocks, in the layout that most trainers write."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name in host.weight_names():
        if Role.LINEAR not in roles_of(name):
            continue
        path = name.removesuffix(".weight").partition(".")[2]
        out, inner = host.weight(name).shape
        up, down = (torch.randn(s, generator=generator) for s in ((out, rank), (rank, inner)))
        tensors[f"diffusion_model.{path}.lora_B.weight"] = size * up / rank
        tensors[f"diffusion_model.{path}.lora_A.weight"] = down / inner**0.5
    assert len(tensors) == 20 * BLOCKS
    return tensors


def merged(graph: Graph, tensors: Tensors, strength: float = 1.0) -> Any:
    return comfy.sd.load_lora_for_models(graph.model, graph.clip, tensors, strength, strength)[0]


def predicted(model: Any, graph: Graph, prompt: Any) -> torch.Tensor:
    return ComfyHost(model, graph.clip).predict(LATENT, AT, [prompt])


def drawn(model: Any, clip: Any, *, cfg: float = 3.0, steps: int = 3) -> torch.Tensor:
    prompts = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, "blurred")
    )
    empty = {"samples": torch.zeros(1, 16, 1, 12, 20)}
    return KSampler().sample(model, 5, steps, cfg, "euler", "simple", *prompts, empty, 1.0)[0][
        "samples"
    ]


MODULE = "transformer.blocks.3.cross_attn.q_proj.weight"
LAYOUTS = [
    "diffusion_model.blocks.3.cross_attn.q_proj",
    "diffusion_model.transformer_blocks.3.attn2.to_q",
    "transformer.blocks.3.cross_attn.q_proj",
    "transformer.transformer_blocks.3.attn2.to_q",
    "transformer_blocks.3.attn2.to_q",
    "base_model.model.blocks.3.cross_attn.q_proj",
    "base_model.model.transformer_blocks.3.attn2.to_q",
    "diffusion_model.base_model.model.blocks.3.cross_attn.q_proj",
    "blocks.3.cross_attn.q_proj",
    "net.blocks.3.cross_attn.q_proj",
    "model.diffusion_model.blocks.3.cross_attn.q_proj",
    "lora_unet_blocks_3_cross_attn_q_proj",
    "lora_unet_transformer_blocks_3_attn2_to_q",
    "lycoris_blocks_3_cross_attn_q_proj",
    "lora_transformer_blocks_3_cross_attn_q_proj",
]
OTHERS = {
    "diffusion_model.llm_adapter.blocks.0.cross_attn.q_proj": (
        "transformer.llm_adapter.blocks.0.cross_attn.q_proj.weight"
    ),
    "text_conditioner.blocks.0.cross_attn.q_proj": (
        "transformer.llm_adapter.blocks.0.cross_attn.q_proj.weight"
    ),
    "text_encoders.qwen3_06b.transformer.model.layers.0.self_attn.q_proj": (
        "qwen3_06b.model.layers.0.self_attn.q_proj.weight"
    ),
    "lora_te_layers_0_self_attn_q_proj": "qwen3_06b.model.layers.0.self_attn.q_proj.weight",
}


def test_every_layout_of_files_is_read(host: ComfyHost, other: Any, graph: Graph):
    ours = key_map(host.weight_names(), host.sites, host.encoders)
    theirs = key_map(other.weight_names(), other.sites, other.encoders)
    expected = dict.fromkeys(LAYOUTS, MODULE) | OTHERS
    assert {name: ours.get(name) for name in expected} == expected
    assert {name: theirs.get(name) for name in expected} == expected
    core = host_key_map(graph.model, graph.clip, "transformer")
    assert core["diffusion_model.blocks.3.cross_attn.q_proj"] == MODULE
    assert {name for name in core if ours.get(name, core[name]) != core[name]} == set()


def test_what_fits_nothing_is_named(host: ComfyHost):
    tensors = {"diffusion_model.blocks.99.mlp.layer1.lora_A.weight": torch.ones(2, 96)}
    names = key_map(host.weight_names(), host.sites, host.encoders)
    with pytest.raises(BaseMismatchError, match=r"blocks\.99\.mlp"):
        lora_of(tensors, names, lambda name: tuple(host.weight(name).shape))


def test_a_mask_of_ones_is_the_merged_model(graph: Graph, host: ComfyHost):
    tensors, prompt = lora(host), host.encode_prompt(PROMPT)
    expected = predicted(merged(graph, tensors, 0.7), graph, prompt)
    model, _ = local(graph, tensors, words="", mask=ONES, strength=0.7)
    assert not torch.allclose(expected, predicted(graph.model, graph, prompt), atol=1e-2)
    torch.testing.assert_close(
        predicted(model, graph, prompt), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )
    torch.testing.assert_close(
        drawn(model, graph.clip), drawn(merged(graph, tensors, 0.7), graph.clip), rtol=0, atol=1e-3
    )


def test_a_mask_of_zeros_is_the_base_model_bit_for_bit(graph: Graph, host: ComfyHost):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    plain = drawn(graph.model, graph.clip)
    model, clip = local(graph, lora(host), words="", mask=ZEROS)
    assert torch.equal(drawn(model, clip), plain)
    assert torch.equal(drawn(graph.model, graph.clip), plain)
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def setup_of(host: Any, tensors: list[Tensors], **how: Any) -> Any:
    words = ("red cat", "small dog")
    loras = [
        LocalLora(
            file=lora_for(host, one), name=f"{i}.safetensors", words=words[i],
            tokens=host.tokenize(words[i]), config=LocalConfig(), **how,
        )
        for i, one in enumerate(tensors)
    ]  # fmt: skip
    return local_setup(host, loras)


def located(host: Any, tensors: list[Tensors]) -> list[torch.Tensor]:
    """Predictions of a short run, masks first."""
    masks: list[torch.Tensor] = []
    setup = setup_of(host, tensors)
    prompt = setup.encode(PROMPT)
    edit = setup.edit(4, {PROMPT: prompt.tokens}, masks.append)
    latent, outputs = LATENT, []
    for t in host.noise_path.timesteps(4):
        outputs.append(host.predict(latent, torch.tensor([t]), [prompt], [edit]))
        latent = latent - 0.2 * outputs[-1]
    return [*masks, *outputs]


def test_two_located_loras_are_the_same_in_both_hosts(host: ComfyHost, other: Any):
    tensors = [lora(host, 1), lora(host, 2)]
    ours, theirs = located(host, tensors), located(other, tensors)
    assert len(ours) == len(theirs) == 5
    assert 0 < float(ours[0].mean()) < 0.5
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-5 * float(one.abs().max()))
    plain = host.predict(LATENT, AT, [host.encode_prompt(PROMPT)])
    assert (
        ours[1] - host.predict(LATENT, torch.tensor([1.0]), [host.encode_prompt(PROMPT)])
    ).abs().max() == 0  # while they are looked for
    assert plain.shape == ours[-1].shape


def test_outside_of_its_mask_the_first_block_is_the_base_models(graph: Graph, host: ComfyHost):
    """Further blocks see it through self-attention, as they should."""
    seen: dict[str, torch.Tensor] = {}
    network = graph.model.model.diffusion_model
    prompt = host.encode_prompt(PROMPT)
    only_first = {k: v for k, v in lora(host).items() if ".blocks.0.mlp." in k}
    model, _ = local(graph, only_first, words="", mask=LEFT)
    for name, one in (("base", graph.model), ("local", model)):
        hook = network.blocks[0].register_forward_hook(
            lambda m, a, output, name=name: seen.__setitem__(name, output)
        )
        predicted(one, graph, prompt)
        hook.remove()
    differs = (seen["local"] - seen["base"]).abs().amax(-1)[0, 0]
    assert float(differs[:, 4:].max()) == 0
    assert float(differs[:, :4].min()) > 1e-3


def test_words_of_a_painted_lora_are_hidden_outside(graph: Graph, host: ComfyHost):
    tensors = lora(host, size=0.0)
    model, clip = local(graph, tensors, words="red cat", mask=LEFT)
    reader = local(graph, tensors, words="red cat", mask=ONES)[0]
    plain = drawn(graph.model, graph.clip)
    assert not torch.allclose(drawn(model, clip), plain, atol=1e-3)
    torch.testing.assert_close(drawn(reader, clip), plain, rtol=0, atol=1e-4)
