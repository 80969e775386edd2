"""One weave: its concepts learned, its template inverted, its variants drawn; each of it kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from measuring import settle
from quality_runs import NO_PREVIEW
from similarity_costs import kept_concept
from similarity_runs import checkpoint_digest, kept_pictures
from similarity_weave_files import Part, WeaveJob
from similarity_weave_plan import VARIANTS, WeaveSimilarityBudget, regions_of
from torch import Tensor

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.fingerprints import content_key
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Progress
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Template,
    learn_for_bank,
    make_template,
    weave,
)
from conceptloom.training.runner import TrainingResult

Masks = Mapping[str, Tensor]  # name of a concept -> its region [H, W]


@dataclass(frozen=True, slots=True)
class Times:
    """What a weave took, and how well its template comes back."""

    inversion: float  # seconds; done once for all variants
    fusion: float  # seconds
    psnr: float  # decibel, of the template drawn again


class Weaver:
    """One weave; what its variants share is made when the first of them needs it.

    Args:
        cells: below which concepts lie that weaves may share.
    """

    def __init__(
        self,
        host: DiffusersHost,
        job: WeaveJob,
        masks: Masks,
        budget: WeaveSimilarityBudget,
        cells: Path,
    ) -> None:
        self._host, self._job, self._masks = host, job, masks
        self._budget, self._cells = budget, cells

    @cached_property
    def _bank(self) -> dict[str, Concept]:
        return {part.name: self._learned(part) for part in self._job.every}

    def _learned(self, part: Part) -> Concept:
        """A concept from its file, or taught now; a stopped run goes on."""

        def learn(states: Path, progress: Progress) -> TrainingResult:
            return learn_for_bank(
                self._host, part.taught, self._budget.bank, folder=states, progress=progress,
                previews=NO_PREVIEW,
            )  # fmt: skip

        return kept_concept(self._file_of(part), self._host.device.type, learn)

    def _file_of(self, part: Part) -> Path:
        images = {"images": [picture.image for picture in part.taught.images]}
        settings = [str(self._host.dtype), asdict(self._budget.bank), part.name, part.word]
        key = content_key(checkpoint_digest(self._host), settings, images)[:12]
        return self._cells / f"{part.name}-{key}.concept.safetensors"

    @property
    def files(self) -> list[Path]:
        """Of its concepts, also before they are learned."""
        return [self._file_of(part) for part in self._job.every]

    @cached_property
    def _inverted(self) -> tuple[Template, float]:
        """The template, and the seconds that it took."""
        began, host = self._now(), self._host
        sigmas = host.noise_path.levels(self._budget.steps)
        image, sentence = self._job.template[None], self._job.sentence
        found = make_template(host, image, sentence, sigmas, InversionConfig())
        return found, self._now() - began

    def _now(self) -> float:
        settle(self._host.device.type)
        return time.perf_counter()

    def drawn(self, variant: str) -> tuple[Tensor, Times]:
        """The picture [1, H, W, 3] of a variant, and what it took."""
        regions = regions_of(self._job, self._masks, self._bank, variant)
        template, inversion = self._inverted
        began = self._now()
        image = weave(self._host, template, regions, VARIANTS[variant]).image
        return image, Times(inversion, self._now() - began, template.psnr)


def kept(weaver: Weaver, variant: str, folder: Path) -> tuple[Tensor, Times]:
    """The picture [H, W, 3] of a variant from its file, or drawn now; and what it took."""
    path = folder / f"{variant.replace(' ', '-').replace(',', '')}.pictures.safetensors"
    beside = path.with_suffix(".json")

    def drawn() -> Iterator[Tensor]:
        image, times = weaver.drawn(variant)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(asdict(times)), encoding="utf-8")
        yield image

    (images,) = kept_pictures(path, drawn)
    return images[0], Times(**json.loads(beside.read_text(encoding="utf-8")))
