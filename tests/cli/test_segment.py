from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.cli.conftest import assert_two_lines


def test_segment_writes_mask_and_record_on_the_scans_grid(amsam, adapter_folder, scans_folder):
    scan = scans_folder / "images" / "case_7.nii.gz"

    ran = amsam("segment", scan, "-o", "out/mask.nii.gz")

    assert ran.code == 0, ran.err
    mask, image = nib.load("out/mask.nii.gz"), nib.load(scan)
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)
    assert {path.name for path in Path("out").iterdir()} == {"mask.nii.gz", "mask.nii.gz.json"}


def test_segment_record_holds_the_command_line_without_folders(amsam, adapter_folder, scans_folder, tmp_path):
    amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", tmp_path / "mask.nii.gz")

    record = json.loads((tmp_path / "mask.nii.gz.json").read_text())
    assert record["argv"] == ["amsam", "segment", "case_7.nii.gz", "-o", "mask.nii.gz"]
    assert str(tmp_path) not in (tmp_path / "mask.nii.gz.json").read_text()


def test_segment_finds_the_adapter_in_the_environment(amsam, adapter_folder, scans_folder, monkeypatch):
    moved = adapter_folder.rename(adapter_folder.with_name("elsewhere"))
    monkeypatch.setenv("AMSAM_ADAPTER", str(moved))

    assert amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", "mask.nii.gz").code == 0


def test_segment_json_tells_each_case(amsam, adapter_folder, scans_folder):
    first = amsam("segment", scans_folder / "images", "-o", "masks", "--json")
    again = amsam("segment", scans_folder / "images", "-o", "masks", "--json")

    assert [(case["case"], case["status"]) for case in first.json["cases"]] == [("case_7", "done"), ("case_8", "done")]
    assert [case["status"] for case in again.json["cases"]] == ["skipped", "skipped"]
    assert again.code == 0


def test_segment_does_the_rest_of_a_folder_and_exits_1_when_a_case_fails(amsam, adapter_folder, scans_folder):
    (scans_folder / "images" / "broken.nii.gz").write_bytes(b"no scan")

    ran = amsam("segment", scans_folder / "images", "-o", "masks", "-q")

    assert ran.code == 1
    assert_two_lines(ran.err)
    assert "broken.nii.gz" in ran.err
    assert {path.name for path in Path("masks").glob("*.nii.gz")} == {"case_7.nii.gz", "case_8.nii.gz"}


def test_segment_takes_every_nth_case(amsam, adapter_folder, scans_folder):
    ran = amsam("segment", scans_folder / "images", "-o", "m", "--num-parts", 2, "--part-id", 1, "--json")

    assert [case["case"] for case in ran.json["cases"]] == ["case_8"]


@pytest.mark.parametrize("parts", [(2, 2), (9, 5)], ids=["no-such-part", "empty-part"])
def test_segment_with_nothing_to_do_is_exit_2(amsam, adapter_folder, scans_folder, parts):
    ran = amsam("segment", scans_folder / "images", "-o", "m", "--num-parts", parts[0], "--part-id", parts[1])

    assert ran.code == 2
    assert_two_lines(ran.err)


SAMPLE_SERIES = Path(__file__).parents[2] / "sample_data" / "dicom"


def test_segment_writes_dicom_seg_probabilities_and_statistics(amsam, adapter_folder, tmp_path):
    (tmp_path / "codes.json").write_text('{"label_1": "SCT:10200004:Liver"}')
    wanted = ("--save-probabilities", "--statistics", "--codes", "codes.json", "--preview")

    ran = amsam("segment", SAMPLE_SERIES, "-o", "masks", "--format", "seg", *wanted)

    assert ran.code == 0, ran.err
    assert {path.name for path in Path("masks").iterdir()} == {
        "dicom.dcm",
        "dicom.dcm.json",
        "dicom.dcm.preview.png",
        "dicom.dcm.probabilities.dcm",
    }
    seg = pydicom.dcmread("masks/dicom.dcm")
    assert (seg.SegmentationType, seg.SegmentSequence[0].SegmentLabel) == ("BINARY", "label_1")
    assert pydicom.dcmread("masks/dicom.dcm.probabilities.dcm").SegmentationType == "FRACTIONAL"
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    record = json.loads(Path("masks/dicom.dcm.json").read_text())
    assert set(record["statistics"]) == {"label_1", "label_2"}
    assert str(tmp_path) not in json.dumps(record)


def test_segment_writes_probabilities_on_the_grid_of_the_scan(amsam, adapter_folder, scans_folder):
    scan = scans_folder / "images" / "case_7.nii.gz"

    ran = amsam("segment", scan, "-o", "mask.nii.gz", "--save-probabilities", "-q")

    likely, mask = nib.load("mask.nii.gz.probabilities.nii.gz"), nib.load("mask.nii.gz")
    values = np.asarray(likely.dataobj)
    assert ran.code == 0
    assert (likely.shape, values.dtype.name) == ((*mask.shape, 2), "float32")
    assert np.array_equal(values, values.astype(np.float16))
    assert np.allclose(likely.affine, mask.affine)


def test_segment_records_what_is_odd_about_the_scan(amsam, adapter_folder, scans_folder):
    scan = scans_folder / "images" / "case_7.nii.gz"
    image = nib.load(scan)
    image.set_qform(image.affine + np.array([[0, 0, 0, 40.0], [0] * 4, [0] * 4, [0] * 4]), 1)
    nib.save(image, scan)

    ran = amsam("segment", scan, "-o", "mask.nii.gz")

    warned = json.loads(Path("mask.nii.gz.json").read_text())["warnings"]
    assert any("its sform and qform lie 40.0 mm apart; the sform is used" in warning for warning in warned)
    assert ran.err.count("sform and qform") == 1


@pytest.mark.parametrize("mode", ["prior", "slice", "fssam", "track", "full"])
def test_segment_records_the_mode_it_ran_in(amsam, adapter_folder, scans_folder, mode):
    scan = scans_folder / "images" / "case_7.nii.gz"

    ran = amsam("segment", scan, "-o", "mask.nii.gz", "--mode", mode, "--max-memory", "0")

    assert ran.code == 0, ran.err
    assert json.loads(Path("mask.nii.gz.json").read_text())["settings"]["mode"] == mode


def test_segment_refuses_a_mode_there_is_not(amsam, adapter_folder, scans_folder):
    assert amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", "m.nii.gz", "--mode", "magic").code == 2
