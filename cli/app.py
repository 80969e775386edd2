"""The console command `conceptloom`. Commands here are options and calls, nothing more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from typer.core import TyperGroup

from .. import __version__
from ..errors import ConceptLoomError
from .batch_command import batch
from .cancelling import Stopped
from .clean_command import clean
from .console import complain, console, log_to_console, say
from .download_command import download
from .evolve_command import evolve, evolve_with_options
from .invent_command import invent, invent_with_options, mix, mix_with_options
from .options import Device, Layout, Model, PictureOut, Precision, PrecisionName
from .output import writable_folder
from .residuals_command import residuals_with_options, train_residuals
from .train_command import train, train_with_options
from .transfer_command import transfer
from .weave_command import weave

WRONG_INPUT, STOPPED = 2, 130  # exit codes; 130 is what a shell gives for Ctrl-C


class _Commands(TyperGroup):
    """Says what went wrong in one message; `--debug` shows where."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in LATE:
            late = typer.Typer(add_completion=False)
            late.command(name)(LATE[name]())
            command = typer.main.get_command(late)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConceptLoomError as error:
            if ctx.params.get("debug"):
                raise
            complain(str(error))
            raise typer.Exit(WRONG_INPUT) from error
        except Stopped as stopped:
            say(str(stopped), "yellow")
            raise typer.Exit(STOPPED) from stopped
        except KeyboardInterrupt as error:
            complain("Stopped at once; saved states remain.")
            raise typer.Exit(STOPPED) from error


def _listed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A stub of a late command, for the list of commands."""

    def stub() -> None: ...

    stub.__doc__ = command.__doc__
    return stub


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(_listed(train))
app.command("invent")(_listed(invent))
app.command("mix")(_listed(mix))
app.command("evolve")(_listed(evolve))
app.command("download")(download)
app.command("transfer")(transfer)
app.command("train-residuals")(_listed(train_residuals))
app.command("weave")(weave)
app.command("batch")(batch)
app.command("clean")(clean)
# Commands that are built when they are called: their options come from the methods.
LATE = {
    "train": train_with_options,
    "train-residuals": residuals_with_options,
    "invent": invent_with_options,
    "mix": mix_with_options,
    "evolve": evolve_with_options,
}


def _tell_version(requested: bool) -> None:
    if requested:
        say(f"conceptloom {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and all log lines.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_tell_version),
    ] = False,
) -> None:
    """Teach a text-to-image model new visual concepts, and draw with them."""
    log_to_console(debug=debug)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=writable_folder, help="Folder of the page.")
    ] = Path("runs/demo"),
    token_steps: Annotated[
        int | None, typer.Option(help="Steps that train only the words.")
    ] = None,
    weight_steps: Annotated[
        int | None, typer.Option(help="Steps that train the words and the model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    short: Annotated[bool, typer.Option("--short", help="Run only the first part.")] = False,
) -> None:
    """Run the demo on the bundled model: learn two objects, draw them in new places, measure."""
    from .demo.run import run_demo

    page = run_demo(
        out, token_steps=token_steps, weight_steps=weight_steps, seed=seed, is_short=short
    )
    say(f"Open {page.resolve().as_uri()}", "bold green")


@app.command()
def sample(
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Repeat for several; default: the training prompts."),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(
            "--concept", "-c", metavar="FILE[:STRENGTH[:NEWNAME]]", help="Repeat for several."
        ),
    ] = None,
    out: PictureOut = None,
    negative: Annotated[str, typer.Option(help="What to avoid.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures per prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps: 20 is fast, 50 fine.")] = 50,
    cfg: Annotated[
        float | None,
        typer.Option(help="Guidance scale: 1 is loose, 7.5 usual; default 7.5, on tinyworld 3."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Default: the model's native size.")
    ] = None,
    lag: Annotated[
        bool,
        typer.Option(
            "--lag", help="Apply residuals only where each concept appears; see train-residuals."
        ),
    ] = False,
    quantile: Annotated[
        float, typer.Option(min=0, max=1, help="With --lag: share that stays with the base model.")
    ] = 0.5,
    local_lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar='FILE[:STRENGTH]="WORDS"[,MASK]',
            help="A LoRA file only where these words of the prompt are. Repeat for several.",
        ),
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="With --local-lora: write where each LoRA worked.")
    ] = False,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
) -> None:
    """Draw pictures with learned concepts; saves each picture as soon as it is finished."""
    from ..concepts.concept import stacked
    from .drawing import Drawing, draw, load_concepts, natural_size, parsed_size
    from .gallery import Gallery
    from .lag import localised
    from .local_loras import local_run
    from .models import TINYWORLD, open_host
    from .models import Precision as Computed
    from .picture_files import free_name

    is_tiny = model == TINYWORLD
    host = open_host(model, layout=layout, device=device, precision=Computed(precision.value))
    loaded = load_concepts(host, concept or [])
    stack, edits = stacked(loaded), []
    prompts = prompt or [text for one, _ in loaded for text in one.prompts]
    if lag:
        stack, edits = localised(host, loaded, prompts, quantile)
    local = local_run(host, local_lora or [], prompts, stack.handles, steps)
    settings = Drawing(
        negative=negative,
        seed=seed,
        steps=steps,
        cfg=cfg if cfg is not None else (3.0 if is_tiny else 7.5),
        size_px=parsed_size(size) if size else natural_size(host),
    )
    gallery = Gallery(out or free_name(Path("picture.png")), count * len(prompts), settings)
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("drawing", total=None)
        draw(
            host,
            prompts,
            stack,
            settings,
            count=count,
            edits=[*edits, *local.edits],
            encode=local.encode,
            keep=lambda picture, prompt: gallery.keep(local.kept(picture), prompt),
            progress=lambda done, total, *_: bars.update(task, completed=done, total=total),
        )
    files = gallery.finished()
    for path in [*files, *(local.write_masks(files) if masks else [])]:
        say(f"wrote {path}")


@app.command()
def inspect(
    file: Annotated[list[Path], typer.Argument(help="Concept files.")],
    thumbnail: Annotated[
        Path | None, typer.Option(help="Save the file's thumbnail as this PNG.")
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Read every tensor and verify the checksum.")
    ] = False,
) -> None:
    """Show the contents of a concept file: handles, recipe, sizes, prompts, thumbnail."""
    from ..concepts.concept_file import load_concept, read_concept_info
    from ..errors import InputError
    from .inspection import told
    from .picture_files import write_picture

    if thumbnail is not None and len(file) > 1:
        raise InputError(
            f"--thumbnail takes one file, but {len(file)} came; inspect them one by one."
        )
    for path in file:
        info = read_concept_info(path)
        console.print(told(path, info, in_colour=console.color_system is not None))
        if verify:
            load_concept(path)
            say(f"{path} is intact: all tensors are readable and the checksum matches.", "green")
        if thumbnail is not None:
            if info.concept.thumbnail is None:
                raise InputError(f"{path} contains no thumbnail.")
            say(f"wrote {write_picture(info.concept.thumbnail, thumbnail)}")


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
