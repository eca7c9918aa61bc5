import hashlib
import json

import pytest

from amsam_cli.report import RunRecord, Stages, json_text, peak_memory_mib, sha256_of
from amsam_cli.report.record import _private_argument, _without_folders


def test_record_comes_back_from_json():
    record = RunRecord(
        version="0.1.0",
        argv=["segment", "a.nii.gz"],
        seed=3,
        inputs={"a.nii.gz": "ab12"},
        settings={"mode": "full", "threshold": 0.5},
        confidence={"liver": [0.5, 0.25]},
        needs_review={"liver": [(0, 3)]},
    )

    content = json.loads(json_text(record.to_json()))

    assert RunRecord.from_json(content).to_json() == content
    assert content["needs_review"] == {"liver": [[0, 3]]}


def test_record_reads_fields_of_a_later_version():
    assert RunRecord.from_json({"version": "9.0", "moon_phase": "full"}).version == "9.0"


def test_record_names_no_absolute_path():
    record = RunRecord(
        version="0.1.0",
        argv=["segment", "/home/jane doe/scans/a.nii.gz", "-o", "out/"],
        inputs={"/home/jane/scans/a.nii.gz": "ab12"},
        warnings=["'/home/jane doe/a.nii.gz' has no spacing."],
        settings={"adapter": "/srv/adapters/liver"},
    )

    text = json_text(record.to_json())

    assert "jane" not in text
    assert "/srv" not in text
    assert json.loads(text)["argv"] == ["segment", "a.nii.gz", "-o", "out"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--shots=4", "--shots=4"),
        ("labels/train", "labels/train"),
        ("--slices=/a b/c.txt", "--slices=c.txt"),
        ("-o/tmp/x", "-ox"),
        (r"C:\scans\a.nii", "a.nii"),
        (r"patient\d+", r"patient\d+"),
        ("/", ""),
    ],
)
def test_argument_loses_the_folders_of_an_absolute_path(argument, expected):
    assert _private_argument(argument) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read '/data/p 7/a.nii.gz' and '/b.png'", "read 'a.nii.gz' and 'b.png'"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("2 / 3 slices, 1/2 of it", "2 / 3 slices, 1/2 of it"),
        ("wrote /tmp/x/mask.png.", "wrote mask.png."),
        ("'a' and/or 'b'", "'a' and/or 'b'"),
    ],
)
def test_text_loses_the_folders_of_absolute_paths_only(text, expected):
    assert _without_folders(text) == expected


def test_stage_entered_twice_adds_up():
    stages = Stages()
    with stages.measure("encode"):
        pass
    first = stages.seconds["encode"]

    with stages.measure("encode"):
        sum(range(1000))

    assert stages.seconds["encode"] > first


def test_peak_memory_is_that_of_a_python_with_numpy():
    assert 10 < peak_memory_mib() < 100_000


def test_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"amsam")

    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"amsam").hexdigest()


def test_hash_of_a_folder_changes_with_names_and_contents(tmp_path):
    hashes = set()
    for name, content in [("a", b"1"), ("a", b"2"), ("b", b"2")]:
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / name).write_bytes(content)
        hashes.add(sha256_of(tmp_path))

    assert len(hashes) == 3
