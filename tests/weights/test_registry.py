import re
from pathlib import Path

import pytest

from amsam_cli.errors import InputError, WeightsError
from amsam_cli.weights import CHECKPOINTS, find_checkpoint, parse_model


def test_registry_has_every_model_of_the_command_line():
    names = (
        "builtin sam2.1-tiny sam2.1-small sam2.1-base-plus sam2.1-large medsam2 sam-vit-b sam-vit-l sam-vit-h medsam"
    )

    assert list(CHECKPOINTS) == names.split()


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_registry_entry_is_complete(checkpoint):
    assert checkpoint.licence
    assert checkpoint.note.endswith(".")
    assert checkpoint.image_size % 32 == 0
    assert checkpoint.url.startswith("https://") or checkpoint.name == "builtin"
    assert checkpoint.sha256 is None or re.fullmatch("[0-9a-f]{64}", checkpoint.sha256)


def test_registry_file_names_are_distinct():
    files = {checkpoint.file_name for checkpoint in CHECKPOINTS.values()}

    assert len(files) == len(CHECKPOINTS)


def test_find_checkpoint_names_the_known_models_when_unknown():
    with pytest.raises(InputError, match=r"no model called 'sam3'; known are builtin, sam2\.1-tiny"):
        find_checkpoint("sam3")


def test_parse_model_takes_a_file_at_hand(tmp_path: Path):
    file = tmp_path / "tuned=again.pt"
    file.touch()

    assert parse_model(f"medsam2={file}") == ("medsam2", file)


def test_parse_model_refuses_a_file_that_is_not_there():
    with pytest.raises(WeightsError, match=r"'nowhere\.pt' of --model medsam2=nowhere\.pt is not a file"):
        parse_model("medsam2=nowhere.pt")


def test_parse_model_refuses_an_empty_file_name():
    with pytest.raises(InputError, match="names no file"):
        parse_model("medsam2=")
