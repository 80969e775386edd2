"""The console command `conceptloom`. Commands here are options and calls, nothing more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import ConceptLoomError
from .batch_command import batch
from .cancelling import Stopped
from .clean_command import clean
from .console import complain, log_to_console, say
from .download_command import download
from .evolve_command import evolve, evolve_with_options
from .import_command import import_lora
from .inspect_command import inspect
from .invent_command import invent, invent_with_options, mix, mix_with_options
from .options import writable_folder
from .residuals_command import residuals_with_options, train_residuals
from .sample_command import sample, sample_with_options
from .train_command import train, train_with_options
from .transfer_command import transfer, transfer_with_options
from .weave_command import weave, weave_with_options

WRONG_INPUT, STOPPED = 2, 130  # exit codes; 130 is what a shell gives for Ctrl-C


class _Commands(TyperGroup):
    """Says what went wrong in one message; `--debug` shows where."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in LATE:
            late = typer.Typer(add_completion=False)
            late.command(name)(LATE[name][1]())
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
# Commands that are built when they are called: their options come from the methods' settings.
LATE = {
    "train": (train, train_with_options),
    "train-residuals": (train_residuals, residuals_with_options),
    "sample": (sample, sample_with_options),
    "transfer": (transfer, transfer_with_options),
    "weave": (weave, weave_with_options),
    "invent": (invent, invent_with_options),
    "mix": (mix, mix_with_options),
    "evolve": (evolve, evolve_with_options),
}
for _name, (_function, _) in LATE.items():
    app.command(_name)(_listed(_function))
for _function in (inspect, import_lora, batch, download, clean):
    app.command()(_function)


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


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
