"""The sample data is what its README says, and its script still makes it."""

import importlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

SAMPLE_DATA = Path(__file__).resolve().parents[1] / "sample_data"
PATIENTS = ("patient_01", "patient_02")
NAMES = {1: "liver", 2: "spleen", 3: "kidney_right", 4: "kidney_left", 5: "aorta"}
PAIRS = [(f"images/{patient}.nii.gz", f"labels/{patient}.nii.gz") for patient in PATIENTS]
PAIRS.append(("scan.nii.gz", "reference.nii.gz"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SAMPLE_DATA))
    return importlib.import_module("generate")


def stored(path: str) -> np.ndarray:
    return np.asarray(nib.load(SAMPLE_DATA / path).dataobj)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_sample_data_is_at_most_five_megabytes() -> None:
    files = [path for path in SAMPLE_DATA.rglob("*") if path.is_file() and "__pycache__" not in path.parts]

    assert sum(path.stat().st_size for path in files) <= 5_000_000


@pytest.mark.parametrize(("image", "labels"), PAIRS)
def test_labels_lie_on_the_grid_of_their_image(image: str, labels: str) -> None:
    image_file, label_file = nib.load(SAMPLE_DATA / image), nib.load(SAMPLE_DATA / labels)

    assert image_file.shape == label_file.shape
    np.testing.assert_array_equal(image_file.affine, label_file.affine)
    assert (image_file.get_data_dtype(), label_file.get_data_dtype()) == (np.int16, np.uint8)


@pytest.mark.parametrize("patient", PATIENTS)
def test_training_labels_hold_four_annotated_slices(patient: str) -> None:
    labels = stored(f"labels/{patient}.nii.gz")

    assert labels.any(axis=(0, 1)).sum() == 4


@pytest.mark.parametrize("labels", [labels for _, labels in PAIRS])
def test_labels_cover_every_value(labels: str) -> None:
    assert set(np.unique(stored(labels))) == {0, *NAMES}


@pytest.mark.parametrize("labels", [labels for _, labels in PAIRS])
def test_labels_carry_their_names(labels: str) -> None:
    (extension,) = nib.load(SAMPLE_DATA / labels).header.extensions

    assert json.loads(extension.text) == {"amsam_labels": {str(value): name for value, name in NAMES.items()}}


def test_file_axes_run_to_the_left_back_and_head() -> None:
    assert nib.aff2axcodes(nib.load(SAMPLE_DATA / "scan.nii.gz").affine) == ("L", "P", "S")


def test_organs_lie_on_their_own_side_of_the_patient() -> None:
    reference = stored("reference.nii.gz")
    affine = nib.load(SAMPLE_DATA / "reference.nii.gz").affine

    right = {name: (affine @ [*np.argwhere(reference == v).mean(axis=0), 1])[0] for v, name in NAMES.items()}

    assert right["liver"] > 20 > -20 > right["spleen"]
    assert right["kidney_right"] > right["aorta"] > right["kidney_left"]


def test_organs_begin_and_end_at_different_heights() -> None:
    reference = stored("reference.nii.gz")

    slices = {name: np.flatnonzero((reference == value).any(axis=(0, 1))) for value, name in NAMES.items()}
    extents = {(found[0], found[-1]) for name, found in slices.items()}

    assert len(extents) == len(NAMES)
    assert all(found[0] > 0 for name, found in slices.items() if name != "aorta")
    assert all(found[-1] < reference.shape[2] - 1 for name, found in slices.items() if name != "aorta")


def test_no_pair_of_thresholds_segments_the_liver() -> None:
    scan, liver = stored("scan.nii.gz"), stored("reference.nii.gz") == 1
    edges = np.arange(-60, 261, 5)
    inside = np.histogram(scan[liver], edges)[0].cumsum()
    everywhere = np.histogram(scan, edges)[0].cumsum()

    low, high = np.triu_indices(len(inside), 1)
    hit, found = inside[high] - inside[low], everywhere[high] - everywhere[low]
    dice = 2 * hit / (liver.sum() + found)

    assert 0.5 < dice.max() < 0.7


def test_neighbouring_organs_overlap_in_intensity() -> None:
    scan, reference = stored("scan.nii.gz"), stored("reference.nii.gz")

    liver, spleen = scan[reference == 1], scan[reference == 2]

    assert 5 < np.median(spleen) - np.median(liver) < 2 * liver.std()


def test_dicom_series_is_part_of_the_scan(script) -> None:
    scan = stored("scan.nii.gz")[:, :, list(script.DICOM_SLICES)]

    series = [pydicom.dcmread(path) for path in sorted((SAMPLE_DATA / "dicom").glob("*.dcm"))]
    hu = np.stack([one.pixel_array.T * one.RescaleSlope + one.RescaleIntercept for one in series], axis=-1)

    np.testing.assert_array_equal(hu, scan)


def test_dicom_series_lies_where_the_scan_lies(script) -> None:
    scan = sitk.ReadImage(SAMPLE_DATA / "scan.nii.gz")
    first = (0, 0, script.DICOM_SLICES.start)

    series = sitk.ReadImage([str(path) for path in sorted((SAMPLE_DATA / "dicom").glob("*.dcm"))])

    assert series.GetOrigin() == pytest.approx(scan.TransformIndexToPhysicalPoint(first), abs=1e-4)
    assert series.GetSpacing() == pytest.approx(scan.GetSpacing(), abs=1e-5)
    assert series.GetDirection() == pytest.approx(scan.GetDirection(), abs=1e-6)


def test_dicom_series_names_no_patient() -> None:
    instance = pydicom.dcmread(SAMPLE_DATA / "dicom" / "slice_01.dcm")

    assert instance.PatientName == "Phantom^Sample"
    assert (instance.PatientBirthDate, instance.PatientSex, instance.StudyDate) == ("", "", "")


def test_figures_pair_up() -> None:
    images = sorted((SAMPLE_DATA / "figures" / "images").iterdir())
    labels = sorted((SAMPLE_DATA / "figures" / "labels").iterdir())

    assert [path.name for path in images] == [path.name for path in labels]
    assert len(images) == 12


@pytest.mark.parametrize("path", sorted((SAMPLE_DATA / "figures" / "images").iterdir()), ids=lambda path: path.stem)
def test_figure_is_a_colour_picture_with_a_mask_of_one_person(path: Path) -> None:
    picture, mask = pixels(path), pixels(path.parents[1] / "labels" / path.name)

    share = (mask == 255).mean()

    assert picture.shape == (*mask.shape, 3)
    assert set(np.unique(mask)) == {0, 255}
    assert 0.05 < share < 0.35


def test_nifti_files_hold_no_time_stamp() -> None:
    # Bytes 4 to 7 of a gzip file are its modification time.
    assert all(path.read_bytes()[4:8] == bytes(4) for path in SAMPLE_DATA.rglob("*.nii.gz"))


def test_script_makes_the_stored_scan(script) -> None:
    hu, labels = script.paint_patient(script.SCAN)

    np.testing.assert_array_equal(labels, stored("reference.nii.gz"))
    np.testing.assert_array_equal(hu, stored("scan.nii.gz"))


def test_script_makes_the_stored_figures(script) -> None:
    picture, mask = script.person.draw(seed=1)

    np.testing.assert_array_equal(mask, pixels(SAMPLE_DATA / "figures" / "labels" / "person_01.png") == 255)
    np.testing.assert_array_equal(picture, pixels(SAMPLE_DATA / "figures" / "images" / "person_01.png"))


def test_script_writes_equal_bytes_when_run_twice(script, tmp_path: Path) -> None:
    hu = np.zeros((4, 5, 30), np.int16)

    for run in ("a", "b"):
        script.write_nifti(tmp_path / run / "scan.nii.gz", hu, script.affine_of(script.SCAN))
        script.write_dicom_series(tmp_path / run / "dicom", hu, script.SCAN)

    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 15
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
