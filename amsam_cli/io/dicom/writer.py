"""DICOM SEG out: which voxel of a series is of which label, or how probably.

The same mask of the same series by the same adapter is the same file: UIDs are derived, dates are the series' own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from monai.config import PathLike
from monai.data import ImageWriter
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.sr.coding import Code as DicomCode

from amsam_cli.errors import InputError
from amsam_cli.io import names as label_names
from amsam_cli.io.dicom.codes import LabelCode, default_code
from amsam_cli.io.dicom.files import quiet
from amsam_cli.io.dicom.segmentation import LABEL_VALUE
from amsam_cli.io.dicom.slices import Slice
from amsam_cli.io.dicom.stack import read_series
from amsam_cli.io.readers import LABEL_NAMES
from amsam_cli.version import __version__

AUTHOR = "author"
"""Key of the meta dictionary under which an `Author` travels."""

SERIES_NUMBER_OFFSET = 1000
"""Our series is numbered after its images', plus this."""

_PLACEHOLDERS = {"StudyDate": None, "StudyTime": None, "AccessionNumber": "", "StudyID": "", "PatientName": "",
                 "PatientID": "", "PatientBirthDate": None, "PatientSex": "", "ReferringPhysicianName": ""}  # fmt: skip
_NO_DATE, _NO_TIME = "19000101", "000000"


@dataclass(frozen=True)
class Author:
    """Who says where the labels are.

    Attributes:
        adapter_sha256: the adapter that did; "" if none.
        codes: label name -> its code; a name without one is coded by its name.
    """

    adapter_sha256: str = ""
    codes: Mapping[str, LabelCode] = field(default_factory=dict)

    def code_of(self, name: str) -> LabelCode:
        """Return the code of a label."""
        return self.codes.get(name) or default_code(name)

    def identification(self) -> Any:
        """Return the algorithm as DICOM identifies it: name, version, adapter."""
        parameters = {"adapter_sha256": self.adapter_sha256} if self.adapter_sha256 else None
        family = dicom_codes.DCM.ArtificialIntelligence
        return hd.AlgorithmIdentificationSequence("amsam", family, __version__, source="amsam", parameters=parameters)


class SegmentationWriter(ImageWriter):  # type: ignore[misc]
    """Writes labels, or probabilities, of a DICOM series as DICOM SEG; MONAI has no writer for it.

    One channel is a label map and becomes a binary SEG, its segments numbered from 1 by ascending label value, also
    those that no voxel holds. A channel per label, of floating point numbers, becomes a fractional one in steps of
    1/255. The meta dictionary says where the series is (as MONAI's readers do, under `filename_or_obj`), which series,
    and what labels are called; `AUTHOR` holds who found them.
    """

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **kwargs: Any) -> None:
        """Take labels (1, I, J, K), or probabilities (L, I, J, K), in file axes."""
        self.data_obj = np.moveaxis(np.asarray(data_array), channel_dim or 0, 0)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any) -> None:
        """Take where the series is, names and author."""
        self.meta = dict(meta_dict or {})

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the file.

        Raises:
            InputError: the scan is no DICOM series, or its headers lack what a SEG must say.
        """
        names = label_names.from_text(str(self.meta.get(LABEL_NAMES, "")))
        series = read_series(Path(self.meta["filename_or_obj"]), str(self.meta.get("series", "")), pixels=False)
        is_fractional = np.issubdtype(self.data_obj.dtype, np.floating)
        if not is_fractional:
            names = {**{value: f"label_{value}" for value in np.unique(self.data_obj).tolist() if value}, **names}
        values = sorted(names)
        if not values:
            raise InputError(f"'{Path(filename).name}' has no label, of which a SEG needs one.", "Name a label.")
        job = _Job(names, series, self.meta.get(AUTHOR) or Author(), is_fractional=bool(is_fractional))
        frames: NDArray[Any]
        if is_fractional:
            frames = np.stack([channel.T.clip(0, 1) for channel in self.data_obj], axis=-1).astype(np.float32)
        else:
            frames = _numbered(self.data_obj[0].T, values)
        _write(frames, values, Path(filename), job)


def _numbered(labels: NDArray[np.integer[Any]], values: Sequence[int]) -> NDArray[np.uint16]:
    """Return segment numbers, from 1 by ascending label value, in the place of label values; 0 for values unnamed."""
    numbers = np.zeros(max(int(labels.max(initial=0)), *values) + 1, np.uint16)
    numbers[list(values)] = np.arange(1, len(values) + 1)
    return np.asarray(numbers[labels])


@dataclass(frozen=True)
class _Job:
    """What a SEG says beside its frames."""

    names: Mapping[int, str]
    slices: Sequence[Slice]
    author: Author
    is_fractional: bool

    @property
    def type(self) -> Any:
        """The type of segmentation, as highdicom names it."""
        kinds = hd.seg.SegmentationTypeValues
        return kinds.FRACTIONAL if self.is_fractional else kinds.BINARY

    def uid(self, what: str, content: bytes = b"") -> str:
        """Return a UID from 128 bits of a hash under the root 2.25, as ISO/IEC 9834-8 allows."""
        facts = (what, self.slices[0].file.series, self.author.adapter_sha256, __version__, self.type.value)
        digest = hashlib.sha256("\0".join(facts).encode() + content).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _write(frames: NDArray[Any], values: Sequence[int], path: Path, job: _Job) -> None:
    """Write the series' sorted slices: segment numbers (K, rows, columns), or fractions (K, rows, columns, L)."""
    sources = _completed([each.header for each in job.slices])
    try:
        with quiet():
            seg = _segmentation(_by_source(frames, job.slices), values, sources, job)
    except (ValueError, AttributeError, KeyError, TypeError) as err:
        raise InputError(
            f"The headers of '{job.slices[0].file.name}' do not allow a DICOM SEG: {err}",
            "Write the mask as .nii.gz, or export the series again with complete headers.",
        ) from err
    _settle(seg, sources[0], job, frames)
    seg.save_as(path)


def _by_source(frames: NDArray[Any], slices: Sequence[Slice]) -> NDArray[Any]:
    """Return frames in the order in which a multi-frame file holds the slices; those of single files stay sorted."""
    return np.asarray(frames[np.argsort([each.frame or 0 for each in slices], kind="stable")])


def _completed(headers: Sequence[Any]) -> list[Any]:
    """Return the distinct source data sets, with what DICOM requires, allows to be empty, and scanners leave out."""
    distinct = {id(header): header for header in headers}
    for header in distinct.values():
        for key, value in _PLACEHOLDERS.items():
            if key not in header:
                setattr(header, key, value)
        if "SpecificCharacterSet" in header and not header.SpecificCharacterSet:
            del header.SpecificCharacterSet
    return list(distinct.values())


def _segmentation(frames: NDArray[Any], values: Sequence[int], sources: Sequence[Any], job: _Job) -> Any:
    content = np.ascontiguousarray(frames).tobytes()
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=job.type,
        segment_descriptions=[_described(number, value, job) for number, value in enumerate(values, start=1)],
        series_instance_uid=job.uid("series"),
        series_number=int(sources[0].get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET,
        sop_instance_uid=job.uid("instance", content),
        instance_number=1,
        manufacturer="amsam",
        manufacturer_model_name="amsam",
        software_versions=__version__,
        device_serial_number=job.author.adapter_sha256[:16] or "none",
        content_label="AMSAM",
        content_description="Labels found by amsam",
        omit_empty_frames=bool(frames.any()),
        series_description="amsam segmentation",
    )


def _described(number: int, value: int, job: _Job) -> Any:
    name = job.names[value]
    code = job.author.code_of(name)
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=DicomCode(code.category.value, code.category.scheme, code.category.meaning),
        segmented_property_type=DicomCode(code.type.value, code.type.scheme, code.type.meaning),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=job.author.identification(),
        display_color=CIELabColor.from_rgb(*code.colour),
    )
    if value != number:
        described.SegmentDescription = LABEL_VALUE.format(value)
    return described


def _settle(seg: Any, source: Any, job: _Job, frames: NDArray[Any]) -> None:
    """Give the SEG dates and UIDs that follow from its source, so that it is the same file every time."""
    date = source.get("ContentDate") or source.get("SeriesDate") or source.get("StudyDate") or _NO_DATE
    time = source.get("ContentTime") or source.get("SeriesTime") or source.get("StudyTime") or _NO_TIME
    for key in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        setattr(seg, key, date)
    for key in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        setattr(seg, key, time)
    if "ContributingEquipmentSequence" in seg:
        for equipment in seg.ContributingEquipmentSequence:
            equipment.ContributionDateTime = f"{date}{str(time).split('.')[0]}"
    if "FrameOfReferenceUID" not in seg:  # a picture says by letters how it lies
        seg.PatientOrientation = source.get("PatientOrientation") or []
    organisation = job.uid("dimensions", np.ascontiguousarray(frames).tobytes())
    _each(seg, "DimensionOrganizationUID", lambda owner: setattr(owner, "DimensionOrganizationUID", organisation))


def _each(dataset: Dataset, keyword: str, act: Callable[[Dataset], None]) -> None:
    """Act on every data set within `dataset`, itself included, that has an element of that name."""
    if keyword in dataset:
        act(dataset)
    for key in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(key, ()):
            _each(item, keyword, act)
