"""The command line: options in, one call of the library, results out.

One file per command, named after it. This room alone prints, draws progress bars and turns exceptions into exit codes.
Everything heavy is imported inside the commands, so that `--help` and `--version` load no torch. Nobody imports this
package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from amsam_cli.cli.adapt import adapt_command
from amsam_cli.cli.bench import bench_app
from amsam_cli.cli.demo import demo_command
from amsam_cli.cli.evaluate import evaluate_command
from amsam_cli.cli.failures import BUG, OK, exit_code_of, print_bug, print_error
from amsam_cli.cli.info import info_command
from amsam_cli.cli.models import models_app
from amsam_cli.cli.pretrain import pretrain_command
from amsam_cli.cli.segment import segment_command
from amsam_cli.cli.suggest import suggest_command
from amsam_cli.errors import AmsamError
from amsam_cli.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("adapt")(adapt_command)
app.command("segment")(segment_command)
app.command("evaluate")(evaluate_command)
app.command("demo")(demo_command)
app.add_typer(models_app, name="models", rich_help_panel="More")
app.command("suggest", rich_help_panel="More")(suggest_command)
app.command("info", rich_help_panel="More")(info_command)
app.command("pretrain", rich_help_panel="More")(pretrain_command)
app.add_typer(bench_app, name="bench", rich_help_panel="More")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 unusable input or usage, 70 a bug."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="amsam", obj=["amsam", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    except AmsamError as err:
        print_error(err)
        return exit_code_of(err)
    except Exception:  # noqa: BLE001 - the door: a bug gets an exit code of its own
        print_bug()
        return BUG
    return OK


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"amsam {__version__}")
        raise typer.Exit


@app.callback()
def amsam(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn a few annotated slices into an automatic segmenter for medical volumes and pictures.

    amsam adapt learns from the slices, amsam segment labels new scans, amsam evaluate measures how well.
    """
