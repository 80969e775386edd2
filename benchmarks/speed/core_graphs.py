"""What is timed in ComfyUI, each as a user would wire it: our nodes and core's, in API JSON.

Widgets that are left out have the value that ComfyUI shows when the node is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Graph = dict[str, dict]
Link = list
WORDS = ("cup", "cat", "toy")
SENTENCE = "a photo of a cup and a cat and a toy"
KINDS = ("woven", "residual")  # concepts that change K and V, and output projections


@dataclass(frozen=True, slots=True)
class Run:
    """One sampling run; every variant of it makes as many steps."""

    seed: int
    steps: int
    cfg: float
    count: int = 1  # concepts


def link(name: str, output: int = 0) -> Link:
    return [name, output]


def given(name: str) -> Link:
    """What the benchmark hands over, as tests/host/executor.py has it."""
    return [f"given-{name}", 0]


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def ours(kind: str, **inputs: object) -> dict:
    """Dots of growing inputs are written as two underscores."""
    dotted = {name.replace("__", "."): value for name, value in inputs.items()}
    return node(f"ConceptLoom{kind}", **dotted)


def lora_of(kind: str, word: str) -> str:
    """The file of a concept, exported as a LoRA."""
    return f"{kind}-{word}.safetensors"


def prompts(text: str, clip: Link) -> Graph:
    return {
        "positive": node("CLIPTextEncode", clip=clip, text=text),
        "negative": node("CLIPTextEncode", clip=clip, text=""),
    }


def ksampler(run: Run, **changes: object) -> dict:
    inputs = {
        "model": given("model"),
        "positive": link("positive"),
        "negative": link("negative"),
        "latent_image": given("empty"),
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        **changes,
    }
    return node("KSampler", seed=run.seed, steps=run.steps, cfg=run.cfg, **inputs)


def plain(run: Run) -> Graph:
    return {**prompts(SENTENCE, given("clip")), "drawn": ksampler(run)}


# ---------------------------------------------------------------- edits under a mask


def masked_latent() -> Graph:
    return {
        "encoded": node("VAEEncode", pixels=given("image"), vae=given("vae")),
        "masked": node("SetLatentNoiseMask", samples=link("encoded"), mask=given("mask 0")),
    }


def noise_mask(run: Run) -> Graph:
    drawn = ksampler(run, latent_image=link("masked"))
    return {**prompts(SENTENCE, given("clip")), **masked_latent(), "drawn": drawn}


def differential(run: Run) -> Graph:
    graph = noise_mask(run)
    graph["drawn"]["inputs"]["model"] = link("differential")
    return {**graph, "differential": node("DifferentialDiffusion", model=given("model"))}


def blended(run: Run) -> Graph:
    return {
        **prompts(SENTENCE, given("clip")),
        **masked_latent(),
        "sampler": ours("MaskedBlendedSampler", start=0),
        "noise": node("RandomNoise", noise_seed=run.seed),
        "sigmas": node(
            "BasicScheduler", model=given("model"), scheduler="normal", steps=run.steps
        ),
        "guider": node(
            "CFGGuider", model=given("model"), cfg=run.cfg,
            positive=link("positive"), negative=link("negative"),
        ),
        "drawn": node(
            "SamplerCustomAdvanced", noise=link("noise"), guider=link("guider"),
            sampler=link("sampler"), sigmas=link("sigmas"), latent_image=link("masked"),
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- concepts in regions


def fused(run: Run) -> Graph:
    """Concept Weaver. The template is inverted once and then in ComfyUI's cache."""
    words = WORDS[: run.count]
    sentence = "a photo of " + " and ".join(f"a {word}" for word in words)
    models = {"model": given("model"), "clip": given("clip")}
    regions = {f"concepts__concept{i}": given(f"woven-{word}") for i, word in enumerate(words)}
    regions |= {f"masks__mask{i}": given(f"mask {i}") for i in range(run.count)}
    return {
        "template": ours(
            "InvertTemplate", **models, vae=given("vae"), image=given("image"), prompt=sentence,
            steps=run.steps, scheduler="normal",
        ),
        "regions": ours(
            "Regions", **regions, sentence=sentence, words="\n".join(words),
            template=link("template"),
        ),
        "fuser": ours(
            "RegionFeatureFuser", **models, template=link("template"), regions=link("regions")
        ),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "drawn": node(
            "SamplerCustom", model=link("fuser"), positive=link("fuser", 1),
            negative=link("fuser", 2), latent_image=link("fuser", 3), sigmas=link("fuser", 4),
            sampler=link("sampler"), add_noise=False, noise_seed=run.seed, cfg=run.cfg,
        ),
    }  # fmt: skip


def masked_hooks(run: Run) -> Graph:
    """Core's regional LoRAs: Create Hook LoRA, Set CLIP Hooks, Cond Pair Set Props, by masks."""
    graph: Graph = {**prompts(SENTENCE, given("clip"))}
    before: dict[str, Link] = {}
    for i, word in enumerate(WORDS[: run.count]):
        text = f"a photo of a {word}"
        graph |= {
            f"hook {i}": node("CreateHookLora", lora_name=lora_of("woven", word)),
            f"clip {i}": node("SetClipHooks", clip=given("clip"), hooks=link(f"hook {i}")),
            f"wanted {i}": node("CLIPTextEncode", clip=link(f"clip {i}"), text=text),
            f"unwanted {i}": node("CLIPTextEncode", clip=link(f"clip {i}"), text=""),
            f"pair {i}": node(
                "PairConditioningSetPropertiesAndCombine" if i else "PairConditioningSetProperties",
                **before, positive_NEW=link(f"wanted {i}"), negative_NEW=link(f"unwanted {i}"),
                mask=given(f"mask {i}"),
            ),
        }  # fmt: skip
        before = {"positive": link(f"pair {i}"), "negative": link(f"pair {i}", 1)}
    graph["all"] = node(
        "PairConditioningSetDefaultCombine", **before,
        positive_DEFAULT=link("positive"), negative_DEFAULT=link("negative"),
    )  # fmt: skip
    graph["drawn"] = ksampler(run, positive=link("all"), negative=link("all", 1))
    return graph


def masked_conditioning(run: Run) -> Graph:
    """Core's Conditioning (Set Mask) and (Combine); the LoRAs work everywhere."""
    graph, (model, clip) = loras(run, "woven")
    graph |= prompts(SENTENCE, clip)
    every = link("positive")
    for i, word in enumerate(WORDS[: run.count]):
        graph |= {
            f"text {i}": node("CLIPTextEncode", clip=clip, text=f"a photo of a {word}"),
            f"area {i}": node(
                "ConditioningSetMask", conditioning=link(f"text {i}"), mask=given(f"mask {i}")
            ),
            f"with {i}": node(
                "ConditioningCombine", conditioning_1=every, conditioning_2=link(f"area {i}")
            ),
        }
        every = link(f"with {i}")
    return {**graph, "drawn": ksampler(run, model=model, positive=every)}


def sampler_per_region(run: Run) -> Graph:
    """The whole picture first, then each region drawn over it with its own LoRA."""
    graph: Graph = {**prompts(SENTENCE, given("clip")), "whole": ksampler(run)}
    latent = link("whole")
    for i, word in enumerate(WORDS[: run.count]):
        name = "drawn" if i == run.count - 1 else f"drawn {i}"
        file = lora_of("woven", word)
        text = f"a photo of a {word}"
        graph |= {
            f"lora {i}": node(
                "LoraLoader", model=given("model"), clip=given("clip"), lora_name=file
            ),
            f"text {i}": node("CLIPTextEncode", clip=link(f"lora {i}", 1), text=text),
            f"mask {i}": node("SetLatentNoiseMask", samples=latent, mask=given(f"mask {i}")),
            name: ksampler(
                run, model=link(f"lora {i}"), positive=link(f"text {i}"),
                latent_image=link(f"mask {i}"), denoise=0.8,
            ),
        }  # fmt: skip
        latent = link(name)
    return graph


# ---------------------------------------------------------------- concepts that must not bleed


def loras(run: Run, kind: str) -> tuple[Graph, tuple[Link, Link]]:
    """Load LoRA, one after the other; and the MODEL and CLIP that come out."""
    graph: Graph = {}
    model, clip = given("model"), given("clip")
    for i, word in enumerate(WORDS[: run.count]):
        name = f"lora {i}"
        graph[name] = node("LoraLoader", model=model, clip=clip, lora_name=lora_of(kind, word))
        model, clip = link(name), link(name, 1)
    return graph, (model, clip)


def plain_loras(run: Run) -> Graph:
    graph, (model, clip) = loras(run, "residual")
    return {**graph, **prompts(SENTENCE, clip), "drawn": ksampler(run, model=model)}


def lag(run: Run) -> Graph:
    graph: Graph = {}
    model, clip, sentence = given("model"), given("clip"), SENTENCE
    for i, word in enumerate(WORDS[: run.count]):
        name = f"lag {i}"
        graph[name] = ours("ApplyLag", model=model, clip=clip, concept=given(f"residual-{word}"))
        model, clip = link(name), link(name, 1)
        sentence = sentence.replace(word, f"<my-{word}> {word}")
    return {**graph, **prompts(sentence, clip), "drawn": ksampler(run, model=model)}


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of a table; its graph leaves the drawn latents in node "drawn"."""

    title: str
    graph: Callable[[Run], Graph]
    anew: Sequence[str] = ()  # what every run gets a new copy of, so that nothing of it is cached


@dataclass(frozen=True, slots=True)
class Group:
    """Variants that are compared with each other; the first is the plain run, the second ours."""

    title: str
    variants: dict[str, Variant]
    count: int = 1


PLAIN = Variant("plain KSampler", plain)


def _regions(count: int) -> Group:
    variants = {
        "plain": PLAIN,
        "ours": Variant("Region Feature Fuser", fused),
        "ours, new template": Variant("the same, its template inverted anew", fused, ("image",)),
        "hooks": Variant("LoRA hooks under conditioning masks", masked_hooks),
        "masks": Variant("all LoRAs loaded, conditioning masks", masked_conditioning),
        "samplers": Variant("a KSampler for the whole and one per region", sampler_per_region),
    }
    return Group(f"{count} concepts in regions", variants, count)


def _localised(count: int) -> Group:
    told = "1 concept" if count == 1 else f"{count} concepts"
    variants = {
        "plain": PLAIN,
        "ours": Variant("Apply LAG", lag),
        "loras": Variant("Load LoRA", plain_loras),
    }
    return Group(f"{told} that should not bleed", variants, count)


GROUPS = {
    "mask": Group(
        "An edit under a mask",
        {
            "plain": PLAIN,
            "ours": Variant("Masked Blended Sampler", blended),
            "noise mask": Variant("Set Latent Noise Mask", noise_mask),
            "differential": Variant("the same with Differential Diffusion", differential),
        },
    ),
    "weave-2": _regions(2),
    "weave-3": _regions(3),
    "lag-1": _localised(1),
    "lag-3": _localised(3),
}
