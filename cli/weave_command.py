"""`conceptloom weave`: several concepts into one template picture (Concept Weaver)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from .console import console, say
from .options import ON_WHITE, BaseModel, PictureOut, with_groups

if TYPE_CHECKING:
    from ..concepts.concept import Concept

_OF_REGIONS = ("dilate", "priority")


@with_groups
def weave(
    template: Annotated[
        Path,
        typer.Argument(
            help="The picture with the layout, at the model's native size: 128 px for tinyworld, "
            f"512 for SD 1.5. {ON_WHITE}"
        ),
    ],
    sentence: Annotated[str, typer.Option("--sentence", "-s", help="Description of the picture.")],
    region: Annotated[
        list[str],
        typer.Option(
            "--region",
            "-r",
            metavar="WORD=CONCEPT,MASK",
            help="A word of the sentence, the concept file and the mask picture; repeat for "
            "several.",
        ),
    ],
    background: Annotated[
        str, typer.Option(metavar="WORD=CONCEPT", help="A concept for the background.")
    ] = "",
    out: PictureOut = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of the sampler: 20 is fast, 50 fine.")
    ] = 50,
    cfg: Annotated[
        float | None, typer.Option(help="Guidance scale; default: the paper's 7.5, on tinyworld 3.")
    ] = None,
    score_mixing: Annotated[
        bool, typer.Option(help="Use the paper's naive baseline: one pass per concept.")
    ] = False,
    *,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Redraw a template with a learned concept in each region (Concept Weaver).

        conceptloom weave room.png -s "a cup and a toy" -r cup=my-mug.safetensors,cup-mask.png \\
            -r toy=my-toy.safetensors,toy-mask.png
    """  # fmt: skip
    from torch import device as place

    from ..concepts.concept_file import load_concept
    from ..host.ports import latent_size
    from ..methods.concept_weaver import (
        InversionConfig,
        Keep,
        Mixing,
        RegionConfig,
        WeaveConfig,
        make_regions,
        make_template,
    )
    from ..methods.concept_weaver import weave as run
    from ..methods.concept_weaver.features import fitting
    from ..tinyworld.presets import CFG
    from ..training.free_memory import free_memory
    from .own_pictures import picture_for
    from .picture_files import as_png, free_name, write_picture
    from .setting_options import changed_by_options

    growing = changed_by_options(RegionConfig(), {n: settings.pop(n) for n in _OF_REGIONS})
    if cfg is None and base.is_tinyworld:
        cfg = CFG
    mixing = Mixing.SCORES if score_mixing else Mixing.FEATURES
    config = changed_by_options(WeaveConfig(mixing=mixing), {**settings, "cfg": cfg})
    load = cache(load_concept)  # one file may be in several regions
    behind = parsed_region(background, load, with_mask=False) if background else None
    region_specs = [parsed_region(option, load) for option in region]
    regions = make_regions(sentence, region_specs, behind, growing)
    host = base.open()
    inversion = InversionConfig(
        resnet_until=config.resnet_until, attention_until=config.attention_until
    )
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("inverting", total=None)

        def report(step: int, total: int, message: str = "", preview: object = None) -> None:
            bars.update(task, completed=step, total=total, description=message or None)

        sigmas = host.noise_path.levels(steps)
        image = picture_for(host, template)[None]
        size = latent_size(host, image.shape[1:3])
        inversion = fitting(host, size, inversion, steps, free_memory(place("cpu")))
        inverted = make_template(host, image, sentence, sigmas, inversion, progress=report)
        woven = run(host, inverted, regions, config, progress=report)
    say(f"reconstruction of the template: {inverted.psnr:.1f} dB")
    say(regions.prompts)
    if inversion.keep is Keep.NOTHING:
        say("The template's features were computed again in each step: they need much memory.")
    notes = {"sentence": sentence, "prompts": regions.prompts, "steps": str(steps)}
    file = as_png(out) if out else free_name(Path("woven.png"))
    say(f"wrote {write_picture(woven.image[0], file, notes)}", "bold green")


def weave_with_options() -> Callable[..., Any]:
    """`weave` with an option for each setting of regions and weaving."""
    from ..methods.concept_weaver import RegionConfig, WeaveConfig
    from .setting_options import with_options

    configs = {"Weaving": WeaveConfig(), "Regions": RegionConfig()}
    return with_options(weave, configs, without=("cfg", "mixing"))


def parsed_region(option: str, load: Callable[[Path], Concept], *, with_mask: bool = True) -> Any:
    """The `RegionSpec` of WORD=CONCEPT,MASK, or of WORD=CONCEPT.

    Args:
        load: reads a concept file.

    Raises:
        InputError: the option does not read so, or a file cannot be read.
    """
    from ..errors import InputError
    from ..methods.concept_weaver import RegionSpec
    from .mask_reader import read_mask

    word, equals, files = option.partition("=")
    concept, comma, mask = files.partition(",")
    if not equals or not word.strip() or not concept or bool(mask) != with_mask:
        form = "WORD=CONCEPT,MASK" if with_mask else "WORD=CONCEPT"
        raise InputError(
            f"The region is {option!r}; it must be {form}, such as cup=my-mug.safetensors,mug.png."
        )
    region_mask = read_mask(Path(mask)) if comma else None
    return RegionSpec(concept=load(Path(concept)), word=word.strip(), mask=region_mask)
