"""Load LoRA (Localized): a LoRA file only where its words are, stackable, for any sampler."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..attention.local import REST, LocalEdit
from ..attention.local_finding import OnMasks
from ..attention.local_joint import local_edit_class
from ..attention.local_lora import (
    LocalConfig,
    LocalLora,
    check_prompts,
    joined,
    parts_of,
    text_changed,
    text_parts_of,
)
from ..attention.local_masks import Cut, MaskMeans
from ..attention.local_setup import text_left_out
from ..attention.local_stacks import LocalLayers
from ..errors import PromptError
from ..host.comfyui.anima_own_texts import Change
from ..host.comfyui.edits import SamplingRun, with_edits
from ..host.comfyui.lora import LoadedBeside, core_difference
from ..host.comfyui.notices import tell
from ..host.comfyui.own_texts import clip_with_own_texts
from ..host.comfyui.texts import telling_clip
from ..host.comfyui.tokens import HIDDEN
from ..host.ports import Host
from .lag_inputs import one_mask
from .lora_files import LORA_CATEGORY, loaded_lora, lora_inputs, lora_stamps
from .shared import host_of

KEY = "conceptloom.local_lora"
RECORD = "conceptloom.local_masks"  # attachment of a MODEL
DEFAULT = LocalConfig()


@dataclass(slots=True)
class MaskRecord:
    """The masks of the latest run of a MODEL."""

    names: tuple[str, ...]
    masks: Tensor | None = None  # [P, G, h, w]


class LoadLoraLocalized(io.ComfyNode):
    """MODEL and CLIP -> both with a LoRA that stays in its place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLoadLoraLocalized",
            display_name="Load LoRA (Localized)",
            category=LORA_CATEGORY,
            description="Loads a LoRA that works only where its subject appears, so that several "
            "characters fit into one picture without bleeding into each other. The model's own "
            "attention to your words locates the region. Chain one node for each LoRA, in any "
            "order; load style LoRAs for the whole picture with Load LoRA as usual.",
            search_aliases=[
                "regional lora", "lora mask", "lora bleeding", "multiple characters",
                "several loras", "masked lora", "lora couple",
            ],
            inputs=[*_first_inputs(), *_advanced_inputs()],
            outputs=[
                io.Model.Output("model", tooltip="The patched model, for any sampler. The input "
                "model is not modified."),
                io.Clip.Output(
                    "clip",
                    tooltip="For the positive and negative prompts: it passes the positions of "
                    "the words to the LoRA.",
                ),
                io.String.Output(
                    "trigger", tooltip="Trigger phrase and most frequent tags of the file, if any."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **_: Any) -> str:
        """Detects a changed file under the same name; linked inputs are None."""
        return lora_stamps(lora_name)

    @classmethod
    def execute(
        cls, model: Any, clip: Any, lora_name: str, words: str, strength_model: float,
        strength_clip: float, mask: Tensor | None = None, trigger_word: str = "", **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        loaded = loaded_lora(model, clip, lora_name)
        host = host_of(model, clip, applies_only=True)
        lora = LocalLora(
            file=loaded.file,
            name=lora_name,
            words=words.strip(),
            tokens=host.tokenize(words.strip()),
            trigger=host.tokenize(trigger_word.strip()),
            strength=strength_model,
            text_strength=strength_clip,
            config=config_of(widgets),
            mask=one_mask(mask),
        )
        return io.NodeOutput(*with_local_lora(model, clip, lora), loaded.words.proposal)


def _first_inputs() -> list[io.Input]:
    return [
        *lora_inputs(),
        io.String.Input(
            "words",
            default="",
            tooltip="Words that the base model knows, exactly as in your prompt next to the "
            "trigger, such as: girl with blue hair. Their attention locates the LoRA's region; a "
            "trigger word alone locates nothing.",
        ),
        _strength(
            "strength_model",
            "Strength on the model, inside the LoRA's region. 0 disables "
            "it; high values oversaturate.",
        ),
        _strength(
            "strength_clip",
            "Strength on the text encoder; only the LoRA's own region uses it. 0 disables it.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Region of the LoRA, painted by hand instead of located by the words.",
        ),
        io.Combo.Input(
            "mask_means",
            options=[choice.value for choice in MaskMeans],
            default=DEFAULT.mask_means.value,
            tooltip="Exactly here: the mask is the region, from the first step on. Somewhere in "
            "here: the words locate the region inside the mask.",
        ),
    ]


def _advanced_inputs() -> list[io.Input]:
    return [
        _share(
            "found_after",
            DEFAULT.found_after,
            1.0,
            "Share of the steps at the start in which only the base model draws, to locate the "
            "words. Low values start the LoRA early in a rough region; 1 never starts it.",
        ),
        _share(
            "threshold",
            DEFAULT.cut.threshold,
            1.0,
            "Threshold of the attention. Low values give large regions, high ones small.",
        ),
        _share(
            "grow",
            DEFAULT.cut.grow,
            0.5,
            "Growth of the region on every side, as a share of the picture's shorter side. 0 "
            "keeps it; high values reach into the surroundings.",
        ),
        _share(
            "end",
            DEFAULT.end,
            1.0,
            "Share of the steps after which only the base model draws again. Low values leave "
            "fine detail to the base model; 1 keeps the LoRA to the end.",
        ),
        io.String.Input(
            "trigger_word",
            default="",
            optional=True,
            advanced=True,
            tooltip="Only for two LoRAs with the same words: the trigger of this one, as your "
            "prompt writes it before the words. Empty: the words count wherever they stand.",
        ),
        _share(
            "fade_in",
            DEFAULT.fade_in,
            1.0,
            "Strength that the LoRA rises to while the words are located, inside the region found "
            "so far. 0 leaves these steps to the base model; high values change the layout.",
            optional=True,
        ),
        _share(
            "grow_by_size",
            DEFAULT.cut.grow_by_size,
            1.0,
            "Further growth as a share of the subject's own radius, for subjects that the LoRA "
            "draws larger. 0 disables it; high values reach into the surroundings.",
            optional=True,
        ),
        _share(
            "second_look",
            DEFAULT.second_look,
            1.0,
            "Share of the steps after which the region is located a second time, now with the "
            "LoRA at work. 1 keeps the first region.",
            optional=True,
        ),
    ]


def _strength(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=1.0, min=-20.0, max=20.0, step=0.01, tooltip=tooltip)


def _share(
    name: str, default: float, most: float, tooltip: str, *, optional: bool = False
) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=most, step=0.01, advanced=True, optional=optional,
        tooltip=tooltip,
    )  # fmt: skip


def config_of(widgets: Mapping[str, Any]) -> LocalConfig:
    """What the widgets say; workflows saved by earlier versions lack the last three."""
    by_size = widgets.get("grow_by_size", DEFAULT.cut.grow_by_size)
    return LocalConfig(
        found_after=widgets["found_after"],
        end=widgets["end"],
        cut=Cut(threshold=widgets["threshold"], grow=widgets["grow"], grow_by_size=by_size),
        mask_means=MaskMeans(widgets["mask_means"]),
        fade_in=widgets.get("fade_in", DEFAULT.fade_in),
        second_look=widgets.get("second_look", DEFAULT.second_look),
    )


def with_local_lora(
    model: Any, clip: Any, lora: LocalLora, on_masks: OnMasks | None = None
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP with one localised LoRA more; those from earlier nodes stay on."""
    if not lora.strength and not lora.text_strength:
        return model, clip
    host = host_of(model, clip, applies_only=True)
    loras = joined([*(model.get_attachment(KEY) or ()), lora])
    beside = LoadedBeside(host.dtype)
    parts = [parts_of(one, host.weight, core_difference) for one in loras]
    layers = LocalLayers(host.sites, parts, beside.keep)
    if layers.unplaced:
        tell(
            f"{lora.name}: {len(layers.unplaced)} weights have no place in the picture "
            f"(embeddings of time and size) and are left out, the first is {layers.unplaced[0]}."
        )
    if layers.dense_bytes:
        tell(
            f"{lora.name}: its kind (DoRA, OFT, BOFT or full differences) keeps whole weights, "
            f"{layers.dense_bytes / 2**20:.0f} MB for all localised LoRAs together."
        )
    record = MaskRecord(tuple(one.shown_as for one in loras))

    def keep(masks: Tensor) -> None:
        record.masks = masks.float().cpu()
        if on_masks is not None:
            on_masks(masks)

    def edits(run: SamplingRun) -> list[LocalEdit]:
        if run.sigmas is not None:
            try:
                check_prompts(loras, run.positive)
            except PromptError as error:
                remedy = "Encode the prompt with the CLIP of the node that loads it."
                raise PromptError(f"{error} {remedy} {HIDDEN}") from error
        edit = local_edit_class(run.sites)
        return [edit(loras, layers, run.times, run.last_t, keep)]

    patched = with_edits(model, KEY, edits, replace=True)
    patched.set_attachments(KEY, loras)
    patched.set_attachments(RECORD, record)
    patched.set_additional_models(KEY, [beside.patcher()])
    return patched, _reading(host, clip, lora)


def _reading(host: Host, clip: Any, lora: LocalLora) -> Any:
    """A CLIP that tells where words are, and encodes prompts for each LoRA's own place."""
    before = clip.patcher.get_attachment(KEY) or ()
    loras = joined([*before, lora])
    telling = clip if before else telling_clip(clip)
    if host.sites.joint is not None:
        if left_out := text_left_out([lora]):
            tell(left_out)
        patched = telling.clone()
        patched.patcher.set_attachments(KEY, loras)
        return patched
    own = {one.key: _text_changes(host, one) for one in loras}
    passages = [one.words for one in loras if one.is_exact and one.words]
    patched = clip_with_own_texts(telling, own, REST if passages else None, passages)
    patched.patcher.set_attachments(KEY, loras)
    return patched


def _text_changes(host: Host, lora: LocalLora) -> dict[str, Change]:
    """Canonical weight name of a text encoder -> what its layer gives with the LoRA."""
    return {
        name: functools.partial(text_changed, part, name.endswith(".bias"))
        for name, part in text_parts_of(lora, host.weight, core_difference).items()
    }
