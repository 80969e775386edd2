"""ComfyUI in this process: its executor, models, concepts and their LoRAs.

Runs under ComfyUI's Python. Models have random weights of Stable Diffusion 1.5's structure, or come
from a checkpoint; every run goes through ComfyUI's own executor, with its cache between runs.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from .core_graphs import KINDS, WORDS, Graph, Run, Variant, lora_of

ROOT = Path(__file__).resolve().parents[2]
RANK = 8  # of concepts that change K and V
# UNet's channels and heads, width of its text encoder
# UNet's channels and heads, width of its text encoder
PRESETS = {"tiny": (32, 4, 64), "35m": (64, 8, 64), "sd15": (320, 8, 768)}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def comfyui_folder() -> Path:
    return Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()


def comfyui_version() -> str:
    return (comfyui_folder() / "comfyui_version.py").read_text().split('"')[1]


def start_comfyui(device: str) -> None:
    """ComfyUI in this process, with its folders in a place that is removed at the end."""
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line when it is imported
    benchmarks, *others = sys.path  # ComfyUI's own modules come first
    tests = str(ROOT / "tests" / "host")
    sys.path[:] = [str(comfyui_folder()), *others, tests, benchmarks]
    from comfy.cli_args import args

    args.cpu = device == "cpu"
    import folder_paths
    import torch

    torch.set_num_threads(1)
    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    folder_paths.add_model_folder_path("loras", f"{place}/loras", is_default=True)
    for kind in ("output", "temp"):
        setattr(folder_paths, f"{kind}_directory", f"{place}/{kind}")


class ComfySession:
    """ComfyUI's executor with our nodes and core's.

    Attributes:
        values: name -> what `given` stands for.
    """

    def __init__(self) -> None:
        from executor import Executor
        from weaver_graphs import with_core_nodes

        self._executor = Executor()
        with_core_nodes()
        self.values: dict[str, Any] = {}

    def run(self, graph: Graph, **wanted: list) -> dict[str, Any]:
        """What comes out of the wanted links.

        Raises:
            RuntimeError: a node failed or refused its input.
        """
        result = self._executor.run(with_defaults(graph), self._asked(graph), **wanted)
        if result.error:
            raise RuntimeError(result.error)
        return result.values

    def draw(self, variant: Variant, run: Run) -> Any:
        """The latents [1, C, h, w] of a run."""
        for name in variant.anew:
            self.values[name] = self.values[name].clone()
        return self.run(variant.graph(run), drawn=["drawn", 0])["drawn"]["samples"]

    def _asked(self, graph: Graph) -> dict[str, Any]:
        links = [v for n in graph.values() for v in n["inputs"].values() if isinstance(v, list)]
        names = {name.removeprefix("given-") for name, _ in links if name.startswith("given-")}
        return {name: self.values[name] for name in names}


def with_defaults(graph: Graph) -> Graph:
    """The same graph with every widget that was left out, as ComfyUI shows it first."""
    import nodes  # noqa: TID251  (ComfyUI's own)

    filled: Graph = {}
    for name, node in graph.items():
        inputs = dict(node["inputs"])
        required = nodes.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()["required"]
        for key, (kind, *more) in required.items():
            options = more[0] if more else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            if key not in inputs and "default" in options:
                inputs[key] = options["default"]
            elif key not in inputs and choices:
                inputs[key] = choices[0]
        filled[name] = {**node, "inputs": inputs}
    return filled


def models_of(options: Namespace) -> dict[str, Any]:
    """MODEL, CLIP and VAE: random ones, or those of a checkpoint."""
    import torch

    with torch.inference_mode():
        if options.checkpoint:
            import comfy.sd

            asked = {"dtype": getattr(torch, DTYPES[options.dtype])}  # and not what ComfyUI likes
            loaded = comfy.sd.load_checkpoint_guess_config(
                str(options.checkpoint), model_options=asked
            )
            return dict(zip(("model", "clip", "vae"), loaded, strict=False))
        return vars(random_models(options))


def random_models(options: Namespace) -> Any:
    """MODEL, CLIP and VAE of a preset, the same sizes on every call."""
    import tiny_models
    import torch

    channels, heads, tiny_models.WIDTH = PRESETS[options.preset]
    kind, sizes, *text = tiny_models.FAMILIES["sd1"]
    more = {
        "model_channels": channels,
        "num_heads": heads,
        "channel_mult": [1, 2, 4, 4],
        "context_dim": tiny_models.WIDTH,
    }
    tiny_models.FAMILIES["benchmark"] = (kind, sizes | more, *text)
    return tiny_models.make_graph("benchmark", dtype=getattr(torch, DTYPES[options.dtype]))


def values_of(models: dict[str, Any], latent: int) -> dict[str, Any]:
    """What the graphs are given: a picture, masks side by side, latents and concepts."""
    import torch

    channels = models["model"].model.latent_format.latent_channels
    side = latent * models["vae"].spacial_compression_encode()
    masks = torch.zeros(len(WORDS), side, side)
    for i, mask in enumerate(masks):
        first, last = (n * side // len(WORDS) for n in (i, i + 1))
        mask[side // 8 : -side // 8, first + side // 16 : last] = 1
    return {
        **models,
        "image": torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0)),
        "empty": {"samples": torch.zeros(1, channels, latent, latent)},
        **{f"mask {i}": masks[i : i + 1] for i in range(len(WORDS))},
        **concepts_of(models),
    }


def concepts_of(models: dict[str, Any]) -> dict[str, Any]:
    """Concepts as sockets carry them; each is also left among ComfyUI's LoRAs."""
    import folder_paths
    from weaver_graphs import pack

    adapters, concepts = pack("training.adapters"), pack("concepts.concept")
    host = pack("host.comfyui.host").ComfyHost(models["model"], models["clip"])
    scopes = (adapters.Scope.CROSS_ATTENTION_KV, adapters.Scope.PROJ_OUT)
    place = Path(folder_paths.get_folder_paths("loras")[0])
    place.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for kind, scope in zip(KINDS, scopes, strict=True):
        names = adapters.scope_weight_names(host.weight_names(), scope)
        for i, word in enumerate(WORDS):
            weights = {n: _factors(host.weight(n).shape, kind, i) for n in names}
            vectors = {e: _random(i, 1, width) for e, width in host.encoders.items()}
            concept = concepts.Concept(
                handles={f"my-{word}": vectors},
                weights=weights,
                base=host.fingerprint,
                method="personalized_residuals" if kind == "residual" else "concept_weaver",
                recipe={"class_word": word},
                words={f"my-{word}": word},
            )
            pack("concepts.lora_export").export_lora(concept, place / lora_of(kind, word))
            found[f"{kind}-{word}"] = concept
    return found


def _factors(shape: Any, kind: str, seed: int) -> Any:
    from weaver_graphs import pack

    width, inner = shape[0], shape[1]
    rank = pack("training.adapters").rank_for(0.05, width) if kind == "residual" else RANK
    up, down = 0.05 * _random(seed, width, rank), _random(seed + 1, rank, inner)
    return pack("concepts.concept").LowRank(up, down / inner**0.5)


def _random(seed: int, *shape: int) -> Any:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
