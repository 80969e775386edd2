"""Base of recipes that train handles first, then handles and weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn

from ..concepts.concept import Concept
from ..concepts.handles import HandleParameters, initial_handles
from ..host.ports import Host, Progress, Prompt, latent_size
from ..scenes.scene import ConceptScene, resized_scene
from .adapters import Scope, make_adapters
from .loop import summary
from .phases import WEIGHTS, TokenPhase, WeightPhase, two_phases
from .recipe import Footprint, Phase, StepDown


class SceneConfig(Protocol):
    """The common settings of such recipes; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def token_phase(self) -> TokenPhase: ...
    @property
    def weight_phase(self) -> WeightPhase: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def checkpointing(self) -> bool: ...
    @property
    def resolution_px(self) -> int: ...
    @property
    def seed(self) -> int: ...


Config = TypeVar("Config", bound=SceneConfig)


class SceneRecipe(ABC, Generic[Config]):
    """Learns the concepts of a scene; a method adds its losses.

    Args:
        host: the base model; it is not modified.
        scene: pictures, masks and words.
        config: the settings.
    """

    method: ClassVar[str]  # as concept files name it

    def __init__(self, host: Host, scene: ConceptScene, config: Config) -> None:
        self.host, self.config = host, config
        self.scene = resized_scene(scene, config.resolution_px, host.pixels_per_latent)
        self.handles = HandleParameters(initial_handles(host, scene.words, seed=config.seed))
        phase = config.weight_phase
        scope = phase.scope if phase.steps else Scope.HANDLES
        self.adapters = make_adapters(host, scope, rank=phase.rank, seed=config.seed)
        self._footprint = Footprint(config.batch_size, config.checkpointing)

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) of the scene in training."""
        height, width = self.scene.images[0].image.shape[:2]
        return height, width

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of its latents."""
        return latent_size(self.host, self.size_px)

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """Training prompts, for the concept file."""

    def phases(self) -> Sequence[Phase]:
        tokens, weights = self.config.token_phase, self.config.weight_phase
        return two_phases(tokens, weights, self.handles, self.adapters)

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        return {**self.handles.named(), **self.adapters.named()}

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        edits = self.adapters.edits() if phase.name == WEIGHTS else {}
        with self.host.edited(edits, trainable=True, checkpointing=self._footprint.checkpointing):
            yield

    def step_down(self) -> StepDown | None:
        return self._footprint.step_down()

    def concept(self, history: Sequence[Mapping[str, float]], thumbnail: Tensor | None) -> Concept:
        """The learned concept, ready to be saved."""
        return Concept(
            handles=self.handles.to_concept_handles(),
            weights=self.adapters.to_concept_weights(),
            base=self.host.fingerprint,
            method=self.method,
            recipe=asdict(self.config),
            seeds={"seed": self.config.seed},
            prompts=self.prompts,
            words=dict(self.scene.words),
            history=summary(history),
            thumbnail=thumbnail,
        )

    def _encoded(self, texts: Sequence[str]) -> list[Prompt]:
        """The prompts of a batch; equal texts are encoded once."""
        vectors = self.handles.vectors()
        encoded = {text: self.host.encode_prompt(text, vectors) for text in dict.fromkeys(texts)}
        return [encoded[text] for text in texts]


class PictureEncoder:
    """Encodes the training pictures; reports after each, so that the user can cancel.

    Args:
        total: number of pictures.
    """

    def __init__(self, host: Host, total: int, progress: Progress) -> None:
        self._host, self._total, self._progress, self._done = host, total, progress, 0

    def __call__(self, image: Tensor) -> Tensor:
        """Latent [C, h, w] of a picture [H, W, 3], 0..1."""
        latent = self._host.encode_image(image[None])[0]
        self._done += 1
        self._progress(self._done, max(self._done, self._total), "encoding the pictures")
        return latent
