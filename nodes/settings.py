"""How one run of the trainer learns, and which method that calls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ..errors import ImageError
from ..host.ports import Host, Progress
from ..methods.break_a_scene import BreakASceneConfig, ClassImages, learn_scene
from ..methods.clic import CLiCConfig, learn_detail
from ..methods.concept_weaver import BankConfig, learn_for_bank
from ..scenes.scene import ConceptScene
from ..training.previews import PreviewConfig
from ..training.recipe import LoopConfig
from ..training.results import PathOf
from ..training.session import Learned


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All that a preset and its knobs decide."""

    config: BreakASceneConfig | CLiCConfig | BankConfig = field(default_factory=BreakASceneConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    class_images: ClassImages = field(default_factory=ClassImages)  # Break-A-Scene only
    told: str = ""  # about the preset, for its tooltip

    def learn(
        self,
        host: Host,
        scene: ConceptScene,
        previews: PreviewConfig,
        folder: Path,
        path_of: PathOf,
        progress: Progress,
        prior_images: Tensor | None = None,
    ) -> Learned:
        """Learn a scene by the method that these settings belong to.

        Raises:
            ImageError: pictures to be held to came, and the method takes none.
        """
        if prior_images is not None and not isinstance(self.config, BreakASceneConfig):
            raise ImageError(
                "This preset learns without pictures to be held to; disconnect prior_images, or "
                "choose a preset of Break-A-Scene."
            )
        if isinstance(self.config, CLiCConfig):
            return learn_detail(
                host, scene, self.config,
                loop=self.loop, previews=previews, folder=folder, path_of=path_of,
                progress=progress,
            )  # fmt: skip
        if isinstance(self.config, BankConfig):
            return learn_for_bank(
                host, scene, self.config,
                loop=self.loop, previews=previews, folder=folder, path_of=path_of,
                progress=progress,
            )  # fmt: skip
        given = replace(self.class_images, images=prior_images)
        return learn_scene(
            host, scene, self.config, class_images=given,
            loop=self.loop, previews=previews, folder=folder, path_of=path_of, progress=progress,
        )  # fmt: skip
