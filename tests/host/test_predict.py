"""One forward pass through ComfyUI's own UNet: noise in eps form, whatever the model predicts."""

from __future__ import annotations

import math

import comfy.samplers
import pytest
import torch
from tiny_models import (
    FAMILIES,
    Graph,
    TinySD2,
    assert_same_state,
    graph_of,
    make_graph,
    state_of,
)

from conceptloom.errors import ModelError, UnsupportedModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.noise import noise_path_of
from conceptloom.host.comfyui.sites import network_sites
from conceptloom.host.ports import Feature, ForwardInfo, Place, Role, StopForward, UNetEdit

LATENT = torch.randn(2, 4, 12, 20, generator=torch.Generator().manual_seed(1))
TIMESTEPS = torch.tensor([40, 901])


def host_denoised(graph: Graph, sigma: torch.Tensor, x: torch.Tensor, conds: list) -> list:
    """What the host's own sampling code makes of the same latent: one x_0 per conditioning."""
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.inner_set_conds({str(i): c for i, c in enumerate(conds)})
    found = []

    def sampler_function(model, noise, sigmas, extra_args=None, **kwargs):
        inner = guider.inner_model
        every = [guider.conds[str(i)] for i in range(len(conds))]
        found.extend(comfy.samplers.calc_cond_batch(inner, every, x, sigma, guider.model_options))
        return noise

    sampler = comfy.samplers.KSAMPLER(sampler_function)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), sampler, sigma.new_tensor([1.0, 0.0]))
    return found


def assert_noise_is_the_hosts(graph: Graph, host: ComfyHost):
    positive, negative = host.encode_prompt("a red cat on a mat"), host.encode_prompt("blurry")
    conds = [
        graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(text))
        for text in ("a red cat on a mat", "blurry")
    ]
    for timestep in (3, 500, 999):
        t = torch.full((2,), timestep)
        sigma = host.noise_path.level_at(t)
        x = LATENT / host.noise_path.coefficients(t)[0][:, None, None, None]
        cond, uncond = host_denoised(graph, sigma, x, conds)
        for prompt, denoised in ((positive, cond), (negative, uncond)):
            ours = host.noise_path.noise(LATENT, host.predict(LATENT, t, [prompt]), t)
            theirs = (x - denoised) / sigma[:, None, None, None]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5 * (1 + 1 / sigma[0]))


def test_noise_equals_what_the_hosts_sampler_computes(graph: Graph, host: ComfyHost):
    assert_noise_is_the_hosts(graph, host)


def test_sd2_comes_in_both_kinds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(FAMILIES, "sd2 base", (TinySD2, *FAMILIES["sd2"][1:]))
    graph = make_graph("sd2 base")
    host = ComfyHost(graph.model, graph.clip, graph.vae)
    assert host.noise_path.name == "eps"
    other = noise_path_of(graph_of("sd2").model.get_model_object("model_sampling"))
    assert other.name == "v"
    assert_noise_is_the_hosts(graph, host)


def test_rows_together_and_apart_are_the_same(host: ComfyHost):
    prompts = [host.encode_prompt("a cat"), host.encode_prompt("a dog, " * 40)]
    assert [p.context.shape[1] for p in prompts] == [77, 77 * 2]
    together = host.predict(LATENT, TIMESTEPS, prompts, conditional=[True, False])
    apart = [
        host.predict(LATENT[i : i + 1], TIMESTEPS[i : i + 1], prompts[i : i + 1]) for i in (0, 1)
    ]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)


def test_every_site_has_its_original_name(family: str):
    unet = graph_of(family).model.model.diffusion_model
    sites = network_sites(unet)
    for site in sites.transformers:
        assert unet.get_submodule(site.name) is site.module
        assert site.heads == site.module.transformer_blocks[0].attn2.heads
        assert site.depth == len(site.module.transformer_blocks)
    for site in sites.resnets:
        block = unet.get_submodule(site.name)
        assert block.out_channels == site.width
    counted = {
        "sd1": ["input 1 2 4 5 7 8", "output 3 4 5 6 7 8 9 10 11"],
        "sdxl": ["input 4 5 7 8", "output 0 1 2 3 4 5"],
    }
    numbers = {place: [s.number for s in sites.transformers if s.place is place] for place in Place}
    for line in counted.get(family, []):
        arm, *expected = line.split()
        place = Place.DOWN if arm == "input" else Place.UP
        assert numbers[place] == [int(n) for n in expected]
    assert len(numbers[Place.MID]) == 1


def test_levels_are_those_of_the_feature_maps(host: ComfyHost):
    seen = {}

    class Look(UNetEdit):
        def begin(self, info: ForwardInfo) -> None:
            self.info = info

        def wanted_layers(self, sites):
            return [f.layer for f in sites.features if f.kind is Feature.RESIDUAL]

        def layer(self, site, inputs, output, info):
            seen[site.name] = tuple(output.shape[-2:]), self.info.grid(site)
            assert output.shape[1] == site.block.width

    odd = torch.randn(1, 4, 13, 22)
    host.predict(odd, torch.tensor([10]), [host.encode_prompt("a cat")], [Look()])
    assert len(seen) == len(host.sites.resnets)
    assert all(shape == grid for shape, grid in seen.values())


class Touch(UNetEdit):
    """Reads every hook point; changes one of them by nothing or by something."""

    def __init__(self, change: str = "", amount: float = 0.0) -> None:
        self.change, self.amount, self.calls = change, amount, {}

    def wanted_attentions(self, sites):
        return sites.cross_attentions

    def wanted_layers(self, sites):
        features = {site.layer: site.kind.value for site in sites.features}
        projections = [site for site in sites.layers if Role.PROJ_OUT in site.roles]
        self.kinds = features | dict.fromkeys(projections, "projection")
        return self.kinds

    def _at(self, kind: str, output: torch.Tensor):
        self.calls[kind] = self.calls.get(kind, 0) + 1
        return output + self.amount if kind == self.change else None

    def attention(self, call):
        rows, heads, positions, width = call.query.shape
        assert positions == math.prod(call.info.grid(call.site))
        assert call.key.shape == (rows, heads, call.info.context_length, width)
        assert call.output.shape[:2] == (rows, positions)
        # An edit may compute other contexts with the same layers without being called again.
        value, out = call.site.value.module, call.site.out.module
        out(value(torch.zeros(1, 3, value.in_features)))
        return self._at("cross", call.output)

    def layer(self, site, inputs, output, info):
        kind = self.kinds[site]
        assert kind != "projection" or inputs.shape == output.shape
        return self._at(kind, output)


def test_all_hook_points_are_called_and_may_change(host: ComfyHost):
    prompt = host.encode_prompt("a cat")
    plain = host.predict(LATENT, TIMESTEPS, [prompt])
    watching = Touch()
    assert torch.equal(host.predict(LATENT, TIMESTEPS, [prompt], [watching]), plain)
    layers = sum(site.depth for site in host.sites.transformers)
    assert watching.calls == {
        "cross": layers,
        "query": layers,
        "key": layers,
        "projection": len(host.sites.transformers),
        "resnet": len(host.sites.resnets),
    }
    for kind in watching.calls:
        amount = 0.5 if kind != "key" else torch.linspace(-3, 3, 32)[0].item()
        changed = host.predict(LATENT, TIMESTEPS, [prompt], [Touch(kind, amount)])
        # A constant on every key is one on every logit of a row: the softmax takes it out again.
        assert torch.allclose(changed, plain, atol=1e-4) == (kind == "key"), kind


def test_replaced_attentions_of_other_packs_are_seen(sd1: Graph):
    model = sd1.model.clone()
    model.set_model_attn2_replace(lambda q, k, v, extra: q * 0, "output", 4)
    host = ComfyHost(model, sd1.clip)
    watching = Touch()
    host.predict(LATENT, TIMESTEPS, [host.encode_prompt("a cat")], [watching])
    assert watching.calls["cross"] == len(host.sites.transformers)


def test_stopping_early_takes_every_hook_off(host: ComfyHost, graph: Graph):
    class Stop(UNetEdit):
        ended = False

        def wanted_layers(self, sites):
            return [s for s in sites.layers if s.block and s.block.place is Place.MID]

        def layer(self, site, inputs, output, info):
            raise StopForward

        def end(self) -> None:
            self.ended = True

    stop = Stop()
    before = state_of(graph.model)
    with pytest.raises(StopForward):
        host.predict(LATENT, TIMESTEPS, [host.encode_prompt("a cat")], [stop])
    assert stop.ended
    assert_same_state(graph.model, before)


def test_loras_of_the_graph_take_part_and_originals_stay_readable(sd1: Graph):
    name = "unet.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    host = ComfyHost(sd1.model, sd1.clip)
    original = host.weight(name).clone()
    model = sd1.model.clone()
    model.add_patches({name.replace("unet", "diffusion_model", 1): ("diff", (original * 3,))})
    patched = ComfyHost(model, sd1.clip)
    prompt = host.encode_prompt("a cat")
    plain = host.predict(LATENT, TIMESTEPS, [prompt])
    assert not torch.allclose(patched.predict(LATENT, TIMESTEPS, [prompt]), plain, atol=1e-4)
    assert torch.equal(patched.weight(name), original)
    assert torch.equal(host.predict(LATENT, TIMESTEPS, [prompt]), plain)


def test_half_precision_weights_are_taken_as_they_come():
    for dtype in (torch.float16, torch.bfloat16):
        graph = make_graph("sd1", dtype=dtype)
        host = ComfyHost(graph.model, graph.clip)
        assert host.weight(host.weight_names()[0]).dtype == dtype
        output = host.predict(LATENT, TIMESTEPS, [host.encode_prompt("a cat")])
        assert output.dtype == torch.float32
        full = ComfyHost(graph_of("sd1").model, graph_of("sd1").clip)
        expected = full.predict(LATENT, TIMESTEPS, [full.encode_prompt("a cat")])
        assert (output - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_pictures_become_scaled_latents_and_back(host: ComfyHost, graph: Graph):
    image = torch.rand(2, 48, 80, 3)
    latent = host.encode_image(image)
    assert latent.shape == (2, 4, 6, 10)
    scale = graph.model.get_model_object("latent_format").scale_factor
    torch.testing.assert_close(latent, graph.vae.encode(image) * scale)
    back = host.decode_latent(latent)
    assert back.shape == image.shape
    assert back.min() >= 0
    assert back.max() <= 1


def test_what_is_no_unet_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match=r"Linear.*Stable Diffusion"):
        network_sites(torch.nn.Linear(2, 2))


def test_a_real_transformer_model_is_refused(sd1: Graph):
    from comfy.ldm.flux.model import Flux

    class FluxMock:
        model = torch.nn.Module()

    FluxMock.model.diffusion_model = Flux.__new__(Flux)
    torch.nn.Module.__init__(FluxMock.model.diffusion_model)
    with pytest.raises(UnsupportedModelError, match="Flux"):
        ComfyHost(FluxMock, sd1.clip)


def test_flow_models_have_no_numbered_levels():
    import comfy.model_sampling

    with pytest.raises(UnsupportedModelError):
        noise_path_of(comfy.model_sampling.ModelSamplingFlux())


def test_a_clip_of_another_family_is_refused(sd1: Graph):
    with pytest.raises(ModelError, match="same checkpoint"):
        ComfyHost(sd1.model, graph_of("sdxl").clip)


def test_patched_sampling_decides_what_is_predicted(sd1: Graph):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    patched = ModelSamplingDiscrete().patch(sd1.model, "v_prediction", False)[0]
    assert ComfyHost(patched, sd1.clip).noise_path.name == "v"
    assert ComfyHost(sd1.model, sd1.clip).noise_path.name == "eps"


def test_a_model_that_ends_in_pure_noise_starts_there(sd1: Graph):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    zero_snr = ModelSamplingDiscrete().patch(sd1.model, "v_prediction", True)[0]
    host = ComfyHost(zero_snr, sd1.clip)
    assert host.noise_path.timesteps(10) == list(range(999, 0, -100))
    at, prompt = torch.full((2,), 999), host.encode_prompt("a cat")
    noise = torch.randn(LATENT.shape, generator=torch.Generator().manual_seed(0))
    noisy = host.noise_path.add_noise(LATENT, noise, at)
    denoised = host.noise_path.denoised(noisy, host.predict(noisy, at, [prompt]), at)
    # all of the picture comes from the network, none of it from what is left in the noise
    torch.testing.assert_close(denoised, -host.predict(noisy, at, [prompt]), atol=3e-3, rtol=1e-3)
    assert bool(host.noise_path.target(LATENT, noise, at).isfinite().all())
