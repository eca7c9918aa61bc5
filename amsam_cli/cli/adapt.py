"""`amsam adapt`: a few annotated slices in, an adapter folder out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from amsam_cli.cli.info import print_adapter
from amsam_cli.cli.options import AsJson, Device, Quiet, Seed, Verbose
from amsam_cli.cli.screen import Screen
from amsam_cli.errors import InputError

if TYPE_CHECKING:
    from amsam_cli.io import Candidate, Collection, Finding
    from amsam_cli.report import Json

DEFAULT_SHOTS = 4
# As in `amsam_cli.volume`, which needs numpy, and in `amsam_cli.adapter.config`, which needs torch.
Plane = Literal["axial", "coronal", "sagittal"]
Tune = Literal["lora", "decoder", "encoder", "full"]
Order = Literal["first", "unrolled", "off"]


def adapt_command(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Folder of label files; images are looked for in and beside it.")
    ],
    shots: Annotated[
        int | None,
        typer.Option("-k", "--shots", min=1, show_default="4", help="How many annotated slices to learn from."),
    ] = None,
    slices: Annotated[
        Path | None, typer.Option(help="Use exactly the slices of this file, a line such as case_03.nii.gz:41 each.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, same names as the label files.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the adapter.")] = Path("amsam_adapter"),
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            show_default="builtin",
            help="Model that is tuned and segments slices, or NAME=checkpoint.pt.",
        ),
    ] = None,
    memory_model: Annotated[
        str | None,
        typer.Option(help="Model that carries masks through the volume; the model itself if it can, else builtin."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="VALUE=NAME", help="Name of a label value.")] = None,
    plane: Annotated[Plane | None, typer.Option(help="Slicing plane; found out from labels and spacing.")] = None,
    group: Annotated[str | None, typer.Option(help="Regular expression for the patient in image file names.")] = None,
    series: Annotated[
        str | None, typer.Option(help="Which DICOM series of a mixed folder: its number, or the end of its UID.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, show_default="4", help="LoRA rank.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Optimiser steps; 0 trains nothing.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-8, help="Learning rate of the tuned weights.")] = None,
    tune: Annotated[
        Tune | None,
        typer.Option(
            help="lora: LoRA in the mask decoder; decoder: the rest of it too; encoder: LoRA in the encoder as well; "
            "full: every weight. Left out, full for the built-in model where labels are large, else lora.",
        ),
    ] = None,
    bilevel: Annotated[
        Order | None,
        typer.Option(help="Let prompts learn from other shots than weights do: first or unrolled order, or off."),
    ] = None,
    preset: Annotated[
        Literal["paper"] | None,
        typer.Option(
            help="Learn by the published AM-SAM settings, on sam-vit-b unless --model says otherwise; what else is "
            "typed differs from them.",
        ),
    ] = None,
    no_forecast: Annotated[bool, typer.Option("--no-forecast", help="Skip the leave-one-out forecast.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data and show the choice, train nothing.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a few annotated slices and leave an adapter folder."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli import io

    found = io.inspect_shots(labels, images, io.Wanted(plane, group, series, _label_names(label or [])))
    if dry_run:
        _rehearse(found, shots, slices, screen)
        return
    chosen = _choose(found.usable(), shots, slices, screen)
    to_learn_from = [each.read() for each in chosen]
    screen.warn([str(finding) for finding in (*found.findings, *io.check_shots(to_learn_from))])
    from amsam_cli import models
    from amsam_cli.adaptation import adapt
    from amsam_cli.adapter import DESCRIPTION, AdapterConfig

    base = AdapterConfig.paper() if preset else AdapterConfig()
    config = replace(
        base,
        rank=rank or base.rank,
        steps=base.steps if steps is None else steps,
        learning_rate=lr or base.learning_rate,
        seed=seed,
        forecast=not no_forecast,
        tune=tune or base.tune,
        bilevel=bilevel or base.bilevel,
    )
    with io.atomic_folder(output, marker=DESCRIPTION) as folder, screen.progress() as on_step:
        tuned = models.load(model or ("sam-vit-b" if preset else "builtin"), device)
        learned = adapt(to_learn_from, tuned, memory_model=memory_model, config=config, on_step=on_step)
        learned.save(folder)
    print_adapter(learned, output, screen)
    screen.say(f"\nNext: amsam segment SCAN -o mask.nii.gz -a {output}")


def _label_names(entries: Sequence[str]) -> dict[int, str]:
    """Return names from VALUE=NAME entries."""
    names: dict[int, str] = {}
    for entry in entries:
        value, equals, name = entry.partition("=")
        if not (equals and value.strip().isdigit() and int(value) > 0 and name.strip()):
            raise typer.BadParameter(f"'{entry}' is not VALUE=NAME, such as 1=liver.", param_hint="--label")
        if int(value) in names or name.strip() in names.values():
            raise typer.BadParameter(f"'{entry}' repeats a value or a name.", param_hint="--label")
        names[int(value)] = name.strip()
    return names


def _choose(candidates: list[Candidate], shots: int | None, slices: Path | None, screen: Screen) -> list[Candidate]:
    """Return the slices to learn from: those of the list, else those that stand for the others."""
    from amsam_cli.adaptation import choose
    from amsam_cli.io import read_slice_list

    if slices is not None:
        listed = read_slice_list(slices, candidates)
        if shots not in (None, len(listed)):
            raise InputError(
                f"--shots {shots} contradicts '{slices}', which names {len(listed)} slices.", "Leave --shots out."
            )
        return listed
    wanted = shots or DEFAULT_SHOTS
    if len(candidates) < wanted:
        screen.warn([f"{wanted} shots were asked for, but only {len(candidates)} slices are annotated; all are used."])
    return choose(candidates, wanted)


def _rehearse(found: Collection, shots: int | None, slices: Path | None, screen: Screen) -> None:
    """Print what is wrong with which file, then what adapt would do: pairs and the chosen slices."""
    if not found.is_usable:
        screen.table(_problems(found.findings))
        screen.result({"problems": [_as_json(finding) for finding in found.findings]})
    chosen = _choose(found.usable(), shots, slices, screen)
    from amsam_cli.io import check_shots

    findings = (*found.findings, *check_shots(each.read() for each in chosen))
    _print_pairs(found, screen)
    if findings:
        screen.table(_problems(findings))
        screen.say()
    _print_choice(found, chosen, findings, screen)


def _problems(findings: Sequence[Finding]) -> list[list[str]]:
    """Return findings as a table: which file, what is wrong, what to do."""
    rows = [["File", "Problem", "What to do"]]
    return rows + [[finding.file, finding.problem, finding.advice] for finding in findings]


def _as_json(finding: Finding) -> Json:
    return {
        "file": finding.file,
        "problem": finding.problem,
        "advice": finding.advice,
        "is_fatal": finding.is_fatal,
    }


def _print_pairs(found: Collection, screen: Screen) -> None:
    per_pair = {pair: sum(candidate.pair == pair for candidate in found.candidates) for pair in found.pairs}
    rows = [[pair.image.name, pair.labels.name, pair.patient, str(count)] for pair, count in per_pair.items()]
    screen.table([["Image", "Labels", "Patient", "Annotated slices"], *rows])
    count = len(found.pairs)
    screen.say(f"\nPlane {found.candidates[0].plane}; {count} {'pair' if count == 1 else 'pairs'} checked.\n")


def _print_choice(found: Collection, chosen: list[Candidate], findings: Sequence[Finding], screen: Screen) -> None:
    """Print the chosen slices; as JSON everything."""
    names = {value: name for each in chosen for value, name in each.read().labels.names.items()}
    rows = [[c.origin, ", ".join(f"{names[v]} ({n} px)" for v, n in sorted(c.areas.items()))] for c in chosen]
    screen.table([["Chosen slice", "Labels"], *rows])
    screen.result(
        {
            "pairs": [{"image": p.image.name, "labels": p.labels.name, "patient": p.patient} for p in found.pairs],
            "plane": chosen[0].plane,
            "annotated_slices": len(found.candidates),
            "labels": {str(value): name for value, name in sorted(names.items())},
            "shots": [candidate.origin for candidate in chosen],
            "problems": [_as_json(finding) for finding in findings],
        }
    )
