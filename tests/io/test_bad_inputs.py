"""The table of bad inputs: for each what is said, that it is exit code 2 in two lines, and that nothing is written."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from tests.cli.conftest import assert_two_lines

THREE = [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, 0.0, 4.0)]
SCAN = np.random.default_rng(0).integers(0, 90, (6, 6, 6)).astype(np.int16)
MASK = np.pad(np.ones((2, 2, 2), np.uint8), 2)
MILLIMETRES = np.diag([1, 1, 2.0, 1])


@dataclass(frozen=True)
class Bench:
    """What rows of the table are made with, in an empty folder."""

    root: Path
    series: Callable[..., Path]

    def nifti(self, name: str, data: np.ndarray, affine: np.ndarray = MILLIMETRES) -> str:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), self.root / name)
        return name

    def itk(self, name: str, data: np.ndarray) -> str:
        sitk.WriteImage(sitk.GetImageFromArray(data, isVector=False), str(self.root / name))
        return name

    def picture(self, name: str, pixels: np.ndarray) -> str:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.root / name)
        return name

    def text(self, name: str, content: str = "these are no voxels\n") -> str:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)
        return name

    def cut(self, name: str, size: int = 300) -> str:
        (self.root / name).write_bytes((self.root / name).read_bytes()[:size])
        return name

    def dicom(self, positions: list[Any] = THREE, **of_the_second: object) -> str:
        def change(number: int, header: Any) -> None:
            for key, value in of_the_second.items() if number == 1 else ():
                if value is None:
                    delattr(header, key)
                else:
                    setattr(header, key, value)

        return self.series(positions, change=change).name

    def archive(self, member: str | zipfile.ZipInfo = "a.txt", content: bytes = b"x", times: int = 1) -> str:
        with zipfile.ZipFile(self.root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content * times)
        return "a.zip"

    def pair(self, image: np.ndarray = SCAN, mask: np.ndarray = MASK, affine: np.ndarray = MILLIMETRES) -> str:
        self.nifti("set/images/a.nii.gz", image)
        self.nifti("set/labels/a.nii.gz", mask, affine)
        return "set"


def folder(bench: Bench) -> str:
    (bench.root / "empty").mkdir()
    return "empty"


def rgb(bench: Bench) -> str:
    return bench.nifti("a.nii", np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def nowhere(bench: Bench) -> str:
    header = nib.Nifti1Header()
    header.set_data_shape((6, 6, 6))
    header["sform_code"], header["srow_x"] = 1, [0, 0, 0, 5]
    nib.save(nib.Nifti1Image(SCAN, None, header), bench.root / "a.nii")
    return "a.nii"


def pages(bench: Bench) -> str:
    page = Image.fromarray(np.zeros((8, 8), np.uint8))
    page.save(bench.root / "a.tif", save_all=True, append_images=[page])
    return "a.tif"


def two_series(bench: Bench) -> str:
    (bench.series([(9, 9, 9)], folder="other") / "000.dcm").rename(bench.series(THREE) / "x.dcm")
    return "series"


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a.dcm")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


# What is given as scan -> what is said.
SCANS: dict[str, tuple[Callable[[Bench], str], str]] = {
    "missing": (lambda b: "missing.nii.gz", "does not exist"),
    "empty-folder": (folder, "holds no scan"),
    "unknown-suffix": (lambda b: b.text("a.xyz"), "is of no format that amsam reads"),
    "text-as-nifti": (lambda b: b.text("a.nii.gz"), "cannot be read as NIfTI"),
    "nifti-cut-short": (lambda b: b.cut(b.nifti("a.nii.gz", SCAN)), "cannot be read as NIfTI"),
    "analyze": (lambda b: b.text("a.hdr"), "is of no format that amsam reads"),
    "four-axes": (lambda b: b.nifti("a.nii", np.zeros((4, 4, 4, 3))), "holds 3 volumes"),
    "complex": (lambda b: b.nifti("a.nii", np.zeros((4, 4, 4), np.complex64)), "holds complex numbers"),
    "colours-in-nifti": (rgb, "holds colours"),
    "nan": (lambda b: b.nifti("a.nii", np.where(SCAN > 80, np.nan, SCAN)), "values that are NaN or infinite"),
    "infinite": (lambda b: b.nifti("a.nii", np.where(SCAN > 80, np.inf, SCAN)), "values that are NaN or infinite"),
    "constant": (lambda b: b.nifti("a.nii", SCAN * 0 + 5), "'a.nii' is constant: every voxel holds 5"),
    "no-axes": (nowhere, "span no space"),
    "text-as-nrrd": (lambda b: b.text("a.nrrd"), "cannot be read as NRRD or MHA"),
    "mha-cut-short": (lambda b: b.cut(b.itk("a.mha", SCAN), 400), "cannot be read as NRRD or MHA"),
    "nrrd-of-four-axes": (lambda b: b.itk("a.nrrd", np.zeros((2, 3, 3, 3), np.int16)), "has 4 axes"),
    "text-as-png": (lambda b: b.text("a.png"), "cannot be read as a picture"),
    "pages": (pages, "holds 2 pages"),
    "text-as-dicom": (lambda b: b.text("a.dcm"), "is no DICOM file"),
    "dicom-cut-short": (lambda b: b.cut(f"{b.dicom()}/001.dcm", -20) and "series", "cannot be read"),
    "missing-slice": (lambda b: b.dicom([*THREE, (0, 0, 8)]), "unevenly spaced, 2, 4 mm: 4.00 mm between '002.dcm'"),
    "slice-twice": (lambda b: b.dicom([*THREE, (0, 0, 2)]), "lie at one place, 2.00 mm"),
    "gantry-tilt": (lambda b: b.dicom([(0, n, 2.0 * n) for n in range(3)]), "is tilted by 26.6 degrees"),
    "shifted-slice": (lambda b: b.dicom([(0, 0, 0), (3, 0, 2), (0, 0, 4)]), "lies 3.00 mm beside the line"),
    "two-series": (two_series, "holds 2 series (series 3: CT, 3 files"),
    "seg-as-scan": (lambda b: b.dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), "is a DICOM segmentation (SEG)"),
    "contours-as-scan": (lambda b: b.dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3"), "is a contour set"),
    "frames-without-place": (lambda b: b.dicom(NumberOfFrames=7), "holds 7 frames that do not say where they lie"),
    "colours-in-dicom": (lambda b: b.dicom(SamplesPerPixel=3), "is in colours"),
    "several-sizes": (lambda b: b.dicom(Rows=2), "holds several sizes"),
    "several-spacings": (lambda b: b.dicom(PixelSpacing=[1, 1]), "holds several pixel spacings"),
    "several-orientations": (lambda b: b.dicom(ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), "several orientations"),
    "no-position": (lambda b: b.dicom(ImagePositionPatient=None), "has no ImagePositionPatient"),
    "no-pixels": (lambda b: b.dicom(PixelData=None), "The pixels of '001.dcm' cannot be read"),
    "zip-damaged": (lambda b: b.text("a.zip"), "cannot be read as a zip archive"),
    "zip-without-dicom": (lambda b: b.archive(), "holds no DICOM file"),
    "zip-leads-out": (lambda b: b.archive("../a.dcm"), "leads out of the archive"),
    "zip-absolute": (lambda b: b.archive("/etc/a.dcm"), "leads out of the archive"),
    "zip-link": (lambda b: b.archive(link()), "is a link"),
    "zip-bomb": (lambda b: b.archive("a.dcm", b"\0" * (1 << 20), 80), "times its size, at most 200 are believed"),
}

# What is typed after `segment` besides the adapter, of a good scan -> what is said.
SEGMENT: dict[str, tuple[Callable[[Bench], list[str]], str]] = {
    "seg-of-nifti": (lambda b: [b.nifti("a.nii", SCAN), "-o", "out/m.dcm"], "needs a DICOM series"),
    "volume-as-png": (lambda b: [b.nifti("a.nii", SCAN), "-o", "out/m.png"], "cannot hold a volume of 6 slices"),
    "over-the-scan": (lambda b: [b.nifti("a.nii", SCAN), "-o", "a.nii"], "would replace its own scan"),
    "format-against-suffix": (lambda b: [b.nifti("a.nii", SCAN), "-o", "m.mha", "--format", "seg"], "contradicts"),
    "series-not-there": (lambda b: [b.dicom(), "-o", "out/m.dcm", "--series", "9"], "holds no series 9"),
    "codes-missing": (lambda b: [b.dicom(), "-o", "out/m.dcm", "--codes", "c.json"], "Label codes 'c.json' cannot be"),
    "codes-damaged": (lambda b: [b.dicom(), "-o", "out/m.dcm", "--codes", b.text("c.json", "{")], "cannot be used"),
    "codes-too-long": (
        lambda b: [b.dicom(), "-o", "out/m.dcm", "--codes", b.text("c.json", '{"a": "SCT:12345678901234567"}')],
        "expected 1 to 16 characters",
    ),
}


def without_image(bench: Bench) -> str:
    bench.nifti("set/images/b.nii.gz", SCAN)
    bench.nifti("set/labels/a.nii.gz", MASK)
    return "set"


def twice(bench: Bench) -> str:
    bench.nifti("set/images/a_0000.nii.gz", SCAN)
    bench.nifti("set/images/a_image.nii.gz", SCAN)
    bench.nifti("set/labels/a_seg.nii.gz", MASK)
    return "set"


def pictures(bench: Bench, mask: np.ndarray, name: str = "a.png") -> str:
    bench.picture("set/images/a.png", np.arange(64, dtype=np.uint8).reshape(8, 8))
    bench.picture(f"set/labels/{name}", mask)
    return "set"


def two_bad(bench: Bench) -> str:
    bench.pair()
    for name in "bc":
        bench.nifti(f"set/images/{name}.nii.gz", SCAN + ord(name))
        bench.text(f"set/labels/{name}.nii.gz")
    return "set"


FAR = MILLIMETRES + np.array([[0, 0, 0, 500.0], [0] * 4, [0] * 4, [0] * 4])
SPOT = np.pad(np.ones((2, 2), np.uint8), 3)

# What is given to `adapt` -> what is said.
LABELS: dict[str, tuple[Callable[[Bench], str], str]] = {
    "no-folder": (lambda b: "none", "does not exist"),
    "no-pair": (lambda b: folder(b), "No pair of an image and a label file"),
    "no-image": (without_image, "has no image of the same name"),
    "two-images": (twice, "fits 'a_0000.nii.gz' and 'a_image.nii.gz'"),
    "empty-labels": (lambda b: b.pair(mask=MASK * 0), "is empty: no voxel holds a label"),
    "fractions": (lambda b: b.pair(mask=MASK * 0.5), "that are no whole numbers, such as 0.5"),
    "negative": (lambda b: b.pair(mask=MASK * np.int16(-3)), "holds values from -3 to 0"),
    "elsewhere": (lambda b: b.pair(affine=FAR), "do not overlap"),
    "constant-image": (lambda b: b.pair(image=SCAN * 0), "is constant: every voxel holds 0"),
    "nan-image": (lambda b: b.pair(image=SCAN * np.nan), "values that are NaN or infinite"),
    "image-cut-short": (lambda b: b.cut(f"{b.pair()}/images/a.nii.gz") and "set", "cannot be read as NIfTI"),
    "labels-as-text": (lambda b: b.text(f"{b.pair()}/labels/a.nii.gz") and "set", "cannot be read as NIfTI"),
    "several-bad-files": (two_bad, "2 of 3 label files cannot be used"),
    "mask-in-colours": (lambda b: pictures(b, np.stack([SPOT, SPOT, 0 * SPOT], -1)), "is in colours"),
    "mask-of-other-size": (lambda b: pictures(b, np.ones((9, 9), np.uint8)), "has shape (1, 9, 9) in px"),
    "lossy-mask": (lambda b: pictures(b, SPOT * 90, "a.jpg"), "is a JPEG"),
}


def left_in(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


@pytest.fixture
def bench(tmp_path: Path, save_series: Callable[..., Path]) -> Bench:
    return Bench(tmp_path, save_series)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that is never asked anything but its plane: bad input does not come so far."""
    adapter = SimpleNamespace(recipe=SimpleNamespace(plane="axial"), sha256="")
    found = SimpleNamespace(adapter=adapter, adapter_sha256="")
    monkeypatch.setattr("amsam_cli.batch.Engine.load", lambda *args, **kwargs: found)


def assert_refused(ran: Any, said: str) -> None:
    assert said in ran.err
    assert_two_lines(ran.err)
    assert (ran.code, ran.out) == (2, "")


def test_table_is_long_enough() -> None:
    assert len(SCANS) + len(SEGMENT) + len(LABELS) >= 40


@pytest.mark.parametrize(("make", "said"), SCANS.values(), ids=SCANS)
def test_segment_refuses_a_bad_scan_and_writes_nothing(amsam, bench, engine, make, said):
    given = make(bench)
    before = left_in(bench.root)

    ran = amsam("segment", given, "-o", "out/mask.nii.gz")

    assert_refused(ran, said)
    assert left_in(bench.root) == before


@pytest.mark.parametrize(("make", "said"), SEGMENT.values(), ids=SEGMENT)
def test_segment_refuses_what_does_not_fit_together_and_writes_nothing(amsam, bench, engine, make, said):
    arguments = make(bench)
    before = left_in(bench.root)

    ran = amsam("segment", *arguments)

    assert_refused(ran, said)
    assert left_in(bench.root) == before


@pytest.mark.parametrize(("make", "said"), LABELS.values(), ids=LABELS)
def test_adapt_refuses_bad_labels_and_writes_nothing(amsam, bench, toy, make, said):
    given = make(bench)
    before = left_in(bench.root)

    ran = amsam("adapt", given, "-q", "-k", 1)

    assert_refused(ran, said)
    assert left_in(bench.root) == before


def test_dry_run_lists_every_bad_file(amsam, bench):
    ran = amsam("adapt", two_bad(bench), "--dry-run")

    assert ran.code == 2
    assert [line.split()[0] for line in ran.out.splitlines()] == ["File", "b.nii.gz", "c.nii.gz"]
    assert "What to do" in ran.out
    assert_two_lines(ran.err)


def test_dry_run_lists_every_bad_file_as_json(amsam, bench):
    ran = amsam("adapt", two_bad(bench), "--dry-run", "--json")

    assert [problem["file"] for problem in ran.json["problems"]] == ["b.nii.gz", "c.nii.gz"]
