"""Details that CLiC learns and targets that it draws them onto, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from clic_sweeps import attention_under
from quality_runs import NO_PREVIEW
from similarity_clic_files import CONCEPT, Pair
from similarity_clic_plan import (
    BASE,
    CLIC,
    FEATHER_PX,
    PASTED,
    REBUILT,
    UNTOUCHED,
    DetailSimilarityBudget,
    edit_config,
    plain_of,
    prompt_of,
    taught_config,
    variant,
)
from similarity_costs import kept_concept
from similarity_runs import checkpoint_digest, decoded, kept_pictures
from torch import Tensor

from conceptloom.concepts.concept import AppliedConcepts, stacked
from conceptloom.concepts.fingerprints import content_key
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import learn_detail
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.masks import composited


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """A pair and all that is made of it: from its files, or now.

    Attributes:
        pair: at the size to draw at.
        learned: file of the concept.
        folder: of the pictures.
    """

    host: DiffusersHost
    pair: Pair
    budget: DetailSimilarityBudget
    seed: int
    learned: Path
    folder: Path

    def stack(self) -> AppliedConcepts:
        """What is learned of the source; a stopped learning goes on."""
        source, config = self.pair.source, taught_config(self.budget, self.pair.source)
        concept = kept_concept(
            self.learned,
            self.host.device.type,
            lambda states, progress: learn_detail(
                self.host, source.scene, config, loop=self.budget.loop,
                previews=NO_PREVIEW, folder=states, progress=progress,
            ),
        )  # fmt: skip
        return stacked([(concept, 1.0)])

    def pictures(self) -> Mapping[str, Tensor]:
        """[n, H, W, 3] of every row of the table."""
        budget, image = self.budget, self.pair.target.image[None]
        found: dict[str, Tensor] = {}
        for what in (CLIC, BASE):
            ways = [edit_config(budget, start) for start in budget.starts]
            drawn = self._kept(what, ways, budget.pictures, with_concept=what == CLIC)
            for start, images in zip(budget.starts, drawn, strict=True):
                found[variant(what, start)] = images
                if what == CLIC:
                    pasted = composited(images, image, self.pair.target.mask, FEATHER_PX)
                    found[variant(what, start) + PASTED] = pasted
        found[REBUILT] = decoded(self.host, self.host.encode_image(image))
        return {**found, UNTOUCHED: image}

    def over_eta(self) -> Sequence[Tensor]:
        """[n, H, W, 3] for each eta of the guidance, at the first t_start."""
        budget = self.budget
        ways = [edit_config(budget, budget.starts[0], eta) for eta in budget.etas]
        return self._kept("over-eta", ways, budget.sweep_pictures)

    def over_start(self) -> Sequence[Tensor]:
        """[n, H, W, 3] for each t_start."""
        ways = [edit_config(self.budget, start) for start in self.budget.sweep_starts]
        return self._kept("over-t_start", ways, self.budget.sweep_pictures)

    def attention(self, images: Tensor) -> list[float]:
        """How much the detail's word is looked at under the mask, in each of the pictures."""
        host, target, stack = self.host, self.pair.target, self.stack()
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt = host.encode_prompt(prompt_of(self.budget, target), stack.handles)
            latents = [host.encode_image(image[None]) for image in images]
            return [
                attention_under(host, latent, prompt, f"<{CONCEPT}>", target.mask)
                for latent in latents
            ]

    def _kept(
        self, name: str, ways: Sequence[EditConfig], count: int, *, with_concept: bool = True
    ) -> list[Tensor]:
        def drawn() -> Iterator[Tensor]:
            stack = self.stack() if with_concept else stacked([])
            return (edited(self, stack, way, count) for way in ways)

        file = f"{name.replace(' ', '-')}.pictures.safetensors"
        return kept_pictures(self.folder / file, drawn)


def edited(work: Work, stack: AppliedConcepts, config: EditConfig, count: int) -> Tensor:
    """[count, H, W, 3] of the target with the concept under its mask; the base model if none.

    All share the noise of their number, whatever the concept and the guidance. Of another t_start
    only the first: noise is drawn step by step.
    """
    host, target = work.host, work.pair.target
    text = prompt_of(work.budget, target) if stack.handles else plain_of(target)
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        prompt, negative = host.encode_prompt(text, stack.handles), host.encode_prompt("")
    words = (f"<{CONCEPT}>",) if stack.handles else ()
    latents = edit_latents(
        host,
        host.encode_image(target.image[None]),
        [Region(prompt, target.mask, words)],
        negative,
        config,
        weights=stack.edits,
        seed=work.seed,
        rows=count,
    )
    return decoded(host, latents)


def work_of(
    host: DiffusersHost,
    name: str,
    pair: Pair,
    budget: DetailSimilarityBudget,
    seed: int,
    cells: Path,
) -> Work:
    """A pair with its files: other settings, models or pictures have others.

    A source that several pairs have is one file.
    """
    source, target, model = pair.source, pair.target, checkpoint_digest(host)
    config = asdict(taught_config(budget, source))
    learning = [str(host.dtype), config, asdict(budget.loop), dict(source.scene.words)]
    taught = content_key(model, learning, {"image": source.image, "mask": source.mask})
    drawing = [taught, seed, asdict(budget), target.word]
    drawn = content_key(model, drawing, {"image": target.image, "mask": target.mask})
    learned = cells / "clic" / "sources" / taught[:12] / "detail.concept.safetensors"
    return Work(
        host=host, pair=pair, budget=budget, seed=seed, learned=learned,
        folder=cells / "clic" / f"{name}-{drawn[:12]}",
    )  # fmt: skip
