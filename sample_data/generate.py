"""Make every file of sample_data: invented patients in NIfTI and DICOM, drawn people in PNG.

    python sample_data/generate.py [FOLDER]

The same code makes the same bytes: each picture has its own seed, and no file holds a date. Where the numbers come
from is in `abdomen.py` (a CT of the upper abdomen) and `person.py` (a drawn figure); this file only stores them.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import person
from abdomen import LABELS, Enhancement, Patient, paint_patient
from nibabel.nifti1 import Nifti1Extension
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

TRAINING = {
    "patient_01": Patient(seed=1, shape=(128, 112, 36), spacing=(2.75, 2.75, 5.0), shift=(0, 0, 5)),
    "patient_02": Patient(
        seed=2,
        shape=(120, 116, 40),
        spacing=(3.0, 3.0, 4.5),
        build=(1.08, 1.12, 1.05),
        shift=(4, -4, 10),
        fat_mm=26,
        noise_hu=17,
        enhancement=Enhancement(liver=94, spleen=104, cortex=136, medulla=120, aorta=122, veins=124, bowel=76),
    ),
}
SCAN = Patient(
    seed=3,
    shape=(136, 108, 34),
    spacing=(2.5, 2.5, 5.5),
    build=(0.95, 0.9, 0.97),
    shift=(-5, -8, 3),
    fat_mm=11,
    noise_hu=14,
    enhancement=Enhancement(liver=101, spleen=124, cortex=164, medulla=126, aorta=170, veins=138, bowel=94),
)
SHOT_HEIGHTS_MM = (-46, -20, 10, 38)
DICOM_SLICES = range(9, 23)
PEOPLE = 12


def main(folder: Path) -> None:
    """Write all sample data into a folder."""
    for name, patient in TRAINING.items():
        hu, labels = paint_patient(patient)
        write_nifti(folder / "images" / f"{name}.nii.gz", hu, affine_of(patient))
        write_nifti(folder / "labels" / f"{name}.nii.gz", keep_shots(labels, patient), affine_of(patient))
    hu, labels = paint_patient(SCAN)
    write_nifti(folder / "scan.nii.gz", hu, affine_of(SCAN))
    write_nifti(folder / "reference.nii.gz", labels, affine_of(SCAN))
    write_dicom_series(folder / "dicom", hu, SCAN)
    write_people(folder / "figures")


def affine_of(patient: Patient) -> NDArray[np.float64]:
    """Return voxel -> RAS+ mm. The file's axes run to the left, back and head, as most CT in NIfTI does."""
    affine = np.diag([-patient.spacing[0], -patient.spacing[1], patient.spacing[2], 1.0])
    affine[:3, 3] = -0.5 * affine[:3, :3] @ (np.asarray(patient.shape) - 1.0)
    return affine


def shot_slices(patient: Patient) -> list[int]:
    """Return the slices that are annotated: four heights of the standard patient, ascending."""
    middle = (patient.shape[2] - 1) / 2
    heights = np.asarray(SHOT_HEIGHTS_MM) * patient.build[2] + patient.shift[2]
    return [round(middle + height / patient.spacing[2]) for height in heights]


def keep_shots(labels: NDArray[np.uint8], patient: Patient) -> NDArray[np.uint8]:
    """Return the labels with all slices but the annotated ones empty, as sparse annotation leaves them."""
    sparse = np.zeros_like(labels)
    for k in shot_slices(patient):
        sparse[:, :, k] = labels[:, :, k]
    return sparse


def write_nifti(path: Path, data: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64]) -> None:
    """Write a compressed NIfTI without a time stamp; labels take their names along in a header extension."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    if data.dtype == np.uint8:
        names = {str(value): name for value, name in LABELS.items()}
        image.header.extensions.append(Nifti1Extension("comment", json.dumps({"amsam_labels": names}).encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


def write_dicom_series(folder: Path, hu: NDArray[np.int16], patient: Patient) -> None:
    """Write the middle slices of a scan as a DICOM CT series, files numbered from the feet up."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, k in enumerate(DICOM_SLICES, start=1):
        instance = ct_slice(hu[:, :, k], number)
        place_slice(instance, patient, k)
        instance.save_as(folder / f"slice_{number:02d}.dcm", enforce_file_format=True)


def ct_slice(hu: NDArray[np.int16], number: int) -> Dataset:
    """Return a CT instance with pixels (I, J) and everything that does not depend on where it lies."""
    instance = Dataset()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.MediaStorageSOPClassUID = instance.SOPClassUID = CTImageStorage
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID = uid_of(f"slice {number}")
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.StudyInstanceUID, instance.SeriesInstanceUID = uid_of("study"), uid_of("series")
    instance.FrameOfReferenceUID, instance.PositionReferenceIndicator = uid_of("frame"), ""
    instance.PatientName, instance.PatientID = "Phantom^Sample", "PHANTOM-3"
    instance.PatientBirthDate = instance.PatientSex = instance.AccessionNumber = instance.StudyID = ""
    instance.StudyDate = instance.StudyTime = instance.ReferringPhysicianName = instance.Manufacturer = ""
    instance.Modality, instance.ImageType = "CT", ["DERIVED", "SECONDARY", "AXIAL"]
    instance.SeriesDescription, instance.PatientPosition = "Invented abdomen, no patient", "HFS"
    instance.SeriesNumber, instance.AcquisitionNumber, instance.InstanceNumber = 1, 1, number
    instance.KVP, instance.WindowCenter, instance.WindowWidth = 120, 40, 400
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
    instance.BitsAllocated, instance.BitsStored, instance.HighBit, instance.PixelRepresentation = 16, 12, 11, 0
    instance.RescaleIntercept, instance.RescaleSlope, instance.RescaleType = -1024, 1, "HU"
    instance.Columns, instance.Rows = hu.shape
    instance.PixelData = (hu.T + 1024).astype("<u2").tobytes()
    return instance


def uid_of(thing: str) -> UID:
    """Return the identifier of a thing in the series, the same every time."""
    return generate_uid(entropy_srcs=["amsam sample data", thing])


def place_slice(instance: Dataset, patient: Patient, k: int) -> None:
    """Say where slice `k` of a patient's scan lies, in DICOM's LPS millimetres."""
    corner = np.diag([-1, -1, 1, 1]) @ affine_of(patient) @ [0, 0, k, 1]
    instance.ImagePositionPatient = [float(value) for value in corner[:3]]
    instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    instance.PixelSpacing = [patient.spacing[1], patient.spacing[0]]
    instance.SliceThickness = instance.SpacingBetweenSlices = patient.spacing[2]
    instance.SliceLocation = float(corner[2])


def write_people(folder: Path) -> None:
    """Write drawn people and their masks as pairs of PNG files of one name."""
    for number in range(1, PEOPLE + 1):
        picture, mask = person.draw(seed=number)
        write_png(folder / "images" / f"person_{number:02d}.png", picture)
        write_png(folder / "labels" / f"person_{number:02d}.png", mask.astype(np.uint8) * 255)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an RGB or single-channel PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=True)


def run(arguments: Sequence[str]) -> None:
    """Run as a script: the folder is the first argument, else the one this file is in."""
    main(Path(arguments[0]) if arguments else Path(__file__).parent)


if __name__ == "__main__":
    run(sys.argv[1:])
