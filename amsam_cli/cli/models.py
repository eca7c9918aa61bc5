"""`amsam models`: the weights this machine has or may have."""

from __future__ import annotations

from typing import Annotated

import typer

from amsam_cli.cli.failures import FAILED
from amsam_cli.cli.options import AsJson, Quiet, Verbose
from amsam_cli.cli.screen import Screen

models_app = typer.Typer(help="List, download or check the models amsam can use.")


@models_app.callback(invoke_without_command=True)
def models_command(
    context: typer.Context, verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """List, download or check the models amsam can use."""
    if context.invoked_subcommand is None:
        list_command(verbose, quiet, as_json)


@models_app.command("list")
def list_command(verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """List the models, and which of them are on this machine."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.weights import CHECKPOINTS, location

    rows = [["Model", "Here", "MiB", "Frame px", "Licence", "Note"]]
    for entry in CHECKPOINTS.values():
        here = "yes" if location(entry).is_file() else "no"
        rows.append([entry.name, here, str(entry.size_mib), str(entry.image_size), entry.licence, entry.note])
    screen.table(rows)
    keys = ("name", "here", "size_mib", "image_size", "licence", "note")
    screen.result({"models": [dict(zip(keys, row, strict=True)) for row in rows[1:]]})


@models_app.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that amsam models list shows.")],
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download the weights of a model and check them."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.weights import pull

    with screen.progress() as on_step:
        path = pull(name, lambda done, total: on_step("MiB", done >> 20, (total or done) >> 20))
    screen.say(f"{name} is at {path}")
    screen.result({"name": name, "path": str(path)})


@models_app.command("verify")
def verify_command(verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Check the weights on this machine against their published, or first seen, hashes."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.weights import verify

    found = verify()
    rows = [[status.checkpoint.name, status.state, str(status.path), status.sha256 or ""] for status in found]
    screen.table([["Model", "State", "File", "SHA-256"], *rows])
    keys = ("name", "state", "path", "sha256")
    screen.result({"models": [dict(zip(keys, row, strict=True)) for row in rows]})
    if any(status.state == "damaged" for status in found):
        raise typer.Exit(FAILED)
