"""The declaration of a method, in `methods/<name>/spec.py`.

Nodes, command line, batches and the demo find methods there and name none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, ImageError
from ..host.ports import Host, Progress, no_progress
from ..scenes.scene import ConceptScene
from .adapters import Scope
from .phases import RATE_OF_SCOPE
from .previews import PreviewConfig
from .recipe import LoopConfig
from .results import SaveConcept
from .runner import TrainingResult
from .setting import changed, settings_in

TINYWORLD = "tinyworld"  # a family of models with presets of its own


class Takes(str, Enum):
    """What a method learns from."""

    SCENE = "pictures with a mask for each concept"
    PICTURES = "pictures of one concept"
    PRIOR = "words, and a diffusion prior"


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodPreset:
    """Initial settings of a run.

    Attributes:
        title: in the list of the trainer node; "" hides it there.
        summary: one line about it, for that list's tooltip.
        option: what `train --method` calls it; "" is for nodes only.
        family: of its base models; "" is all others.
        rates: of the second phase, for a scope without an explicit rate.
    """

    title: str = ""
    summary: str = ""
    option: str = ""
    family: str = ""
    config: Any
    loop: LoopConfig = field(default_factory=LoopConfig)
    previews: PreviewConfig = field(default_factory=PreviewConfig)
    rates: Mapping[Scope, float] = field(default_factory=lambda: RATE_OF_SCOPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """One method.

    Attributes:
        name: of its folder.
        title: name in its paper.
        summary: half a sentence, for `train --method`: "learns objects".
        learn: for `Takes.SCENE` called as (host, scene, config, loop=, previews=, folder=,
            save=, progress=), and class_images= if it takes some. Other methods have
            their own node and command, which call it.
    """

    name: str
    title: str
    summary: str
    takes: Takes
    takes_class_images: bool = False
    presets: tuple[MethodPreset, ...]
    learn: Callable[..., Any]

    @property
    def config(self) -> Any:
        """The default settings."""
        return self.presets[0].config


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """All settings of a run."""

    spec: MethodSpec
    config: Any
    loop: LoopConfig
    previews: PreviewConfig
    rates: Mapping[Scope, float]

    def changed(self, values: Mapping[str, Any]) -> RunSettings:
        """The settings with other values; None keeps a setting.

        Args:
            values: by the names of `settings_in`; a scope without weight_rate gets its own rate.

        Raises:
            ConfigError: a value is invalid, or the method has no such setting.
        """
        overrides = {name: value for name, value in values.items() if value is not None}
        if "scope" in overrides and "weight_rate" not in overrides:
            declared = {one.name: one for one in settings_in(self)}
            if {"scope", "weight_rate"} <= declared.keys():
                scope = declared["scope"].parsed(overrides["scope"])
                if scope not in self.rates:
                    raise ConfigError("scope", scope.value, f"one that {self.spec.title} trains")
                overrides["weight_rate"] = self.rates[scope]
        return changed(self, overrides, owner=self.spec.title)

    def learn(
        self,
        host: Host,
        scene: ConceptScene,
        *,
        class_images: Tensor | None = None,
        folder: Path | None = None,
        save: SaveConcept | None = None,
        progress: Progress = no_progress,
    ) -> TrainingResult:
        """Learn a scene.

        Raises:
            ImageError: there are class images, but the method takes none.
            ConceptLoomError: see the method's `learn`.
        """
        more: dict[str, Any] = {}
        if self.spec.takes_class_images:
            more["class_images"] = class_images
        elif class_images is not None:
            raise ImageError(
                f"{self.spec.title} trains without class images; remove them (prior_images, "
                "--class-image), or choose Break-A-Scene."
            )
        return self.spec.learn(
            host, scene, self.config, loop=self.loop, previews=self.previews, folder=folder,
            save=save, progress=progress, **more,
        )  # fmt: skip


def run_settings(spec: MethodSpec, preset: MethodPreset) -> RunSettings:
    """The settings of a preset."""
    return RunSettings(
        spec=spec,
        config=preset.config,
        loop=preset.loop,
        previews=preset.previews,
        rates=preset.rates,
    )


def settings_for(spec: MethodSpec, family: str = "") -> RunSettings:
    """The settings of a method for a family of models, or its default settings."""
    by_family = {preset.family: preset for preset in reversed(spec.presets)}
    return run_settings(spec, by_family.get(family, spec.presets[0]))
