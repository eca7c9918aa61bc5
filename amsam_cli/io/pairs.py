"""Which image belongs to which annotation, by the rules of `amsam adapt --help`, first match wins."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amsam_cli.errors import InputError
from amsam_cli.io.cases import is_scan
from amsam_cli.io.dicom.references import annotations_in, find_drawn
from amsam_cli.io.dicom.stack import patient_id
from amsam_cli.io.formats import READABLE, dicom_files, format_of, is_dicom, stem_of

_IMAGE_MARK = re.compile(r"[._](0000|image|img|scan)$", re.IGNORECASE)
_LABEL_MARK = re.compile(r"[._](labels?|seg|mask|gt)$", re.IGNORECASE)

_HOW = (
    "Give the folder of images with --images; an image and its label file have the same name, "
    "or x_image.nii.gz and x_label.nii.gz."
)


@dataclass(frozen=True)
class Pair:
    """An image and its annotation.

    Attributes:
        image: a file, or the folder of a DICOM series.
        labels: the file with its label map.
        patient: whose it is; pairs of one patient never validate each other.
        series: which DICOM series of the folder is the image, by number, UID or its end; None if there is but one.
    """

    image: Path
    labels: Path
    patient: str
    series: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A Decathlon `dataset.json`: its training pairs and label names."""

    pairs: tuple[tuple[Path, Path], ...]
    names: dict[int, str]


def find_pairs(
    labels: Path, images: Path | None = None, *, group: str | None = None, series: str | None = None
) -> list[Pair]:
    """Return every label file of `labels` with its image, sorted by name.

    DICOM annotations say themselves which series they were drawn on; everything else goes by names.

    Args:
        labels: a folder as `amsam adapt` takes it, or one label file.
        images: the folder of images, or one image.
        group: regular expression for the part of an image's file name that is the patient (its first group if it has
            one); None takes the DICOM patient, else the case's name.
        series: which of several DICOM series in an image folder.

    Raises:
        InputError: no pair, a label file without an image, two images for one, or a `group` that does not fit.
    """
    labels, images = Path(labels), Path(images) if images else None
    annotations = annotations_in(labels)
    if annotations:
        places = [images] if images else [labels, *_around(labels)]
        drawn = find_drawn(annotations, places)
        return [Pair(each.image, each.labels, patient_of(each.image, group), each.series) for each in drawn]
    return [Pair(image, mask, patient_of(image, group), series) for image, mask in _find(labels, images)]


def _around(labels: Path) -> list[Path]:
    """Return the folders beside DICOM annotations in which their images may be."""
    parent = labels.resolve().parent
    return [parent] if labels.is_file() else [place for place in (parent / "images", parent) if place.is_dir()]


def _find(labels: Path, images: Path | None) -> list[tuple[Path, Path]]:
    if not labels.exists():
        raise InputError(f"'{labels}' does not exist.", "Give the folder that holds your label files.")
    if images is not None:
        return _matched(_scans(labels), _scans(images), images)
    if labels.is_file():
        return _beside_file(labels)
    if (labels / "images").is_dir() and (labels / "labels").is_dir():
        return _matched(_scans(labels / "labels"), _scans(labels / "images"), labels / "images")
    sibling = _sibling_of(labels)
    if sibling:
        return _matched(_scans(labels), _scans(sibling), sibling)
    inside = _inside(labels)
    if inside:
        return inside
    dataset = read_dataset(labels)
    if dataset and dataset.pairs:
        return list(dataset.pairs)
    raise InputError(f"No pair of an image and a label file found in '{labels}'.", _HOW)


def _beside_file(labels: Path) -> list[tuple[Path, Path]]:
    """Return the image of one label file: in a sibling folder, else beside it."""
    parent = labels.resolve().parent
    sibling = _sibling_of(parent)
    if sibling:
        return _matched([labels], _scans(sibling), sibling)
    others = [path for path in _scans(parent) if path.name != labels.name and not _LABEL_MARK.search(stem_of(path))]
    return _matched([labels], others, parent)


def _sibling_of(folder: Path) -> Path | None:
    """Return the folder `images` or `imagesTr` beside `folder`, if any of its scans has a label file in `folder`."""
    keys = {case_key(path) for path in folder.iterdir() if is_scan(path)}
    for sibling in (folder.resolve().parent / name for name in ("images", "imagesTr")):
        is_other = sibling.is_dir() and sibling != folder.resolve()
        if is_other and keys & {case_key(path) for path in sibling.iterdir() if is_scan(path)}:
            return sibling
    return None


def _inside(folder: Path) -> list[tuple[Path, Path]]:
    """Return the pairs x_image, x_label within one folder; images without labels are passed over."""
    scans = [path for path in sorted(folder.iterdir()) if is_scan(path)]
    masks = [path for path in scans if _LABEL_MARK.search(stem_of(path))]
    return _matched(masks, [path for path in scans if path not in masks], folder) if masks else []


def _scans(path: Path) -> list[Path]:
    if path.is_file() or not path.exists() or dicom_files(path):
        format_of(path)
        return [path]
    scans = [child for child in sorted(path.iterdir()) if is_scan(child)]
    if not scans:
        raise InputError(f"Folder '{path}' holds no scan.", f"One scan is {READABLE}.")
    return scans


def _matched(masks: Sequence[Path], images: Sequence[Path], where: Path) -> list[tuple[Path, Path]]:
    if len(masks) == 1 and len(images) == 1 and where == images[0]:
        return [(images[0], masks[0])]  # both named by the user, whatever their names
    by_stem, by_key = _by(images, stem_of), _by(images, case_key)
    return [(_image_of(mask, by_stem, by_key, where), mask) for mask in masks]


def _by(images: Sequence[Path], name_of: Callable[[Path], str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        found[name_of(image)].append(image)
    return found


def _image_of(mask: Path, by_stem: dict[str, list[Path]], by_key: dict[str, list[Path]], where: Path) -> Path:
    fitting = by_stem.get(stem_of(mask)) or by_key.get(case_key(mask)) or []
    if not fitting:
        raise InputError(f"Label file '{mask}' has no image of the same name in '{where}'.", _HOW)
    if len(fitting) > 1:
        names = " and ".join(f"'{image.name}'" for image in fitting)
        raise InputError(f"Label file '{mask}' fits {names} in '{where}'.", "Leave one image for each label file.")
    return fitting[0]


def case_key(path: Path) -> str:
    """Return what an image and its label file have in common in their names.

    >>> case_key(Path("a_0000.nii.gz")), case_key(Path("a_seg.png"))
    ('a', 'a')
    """
    stem = stem_of(path)
    shortened = _LABEL_MARK.sub("", stem) if _LABEL_MARK.search(stem) else _IMAGE_MARK.sub("", stem)
    return shortened or stem


def patient_of(image: Path, group: str | None = None) -> str:
    """Return whose scan `image` is: by `group` from its name, else by a hash of the DICOM patient, else its case.

    Raises:
        InputError: `group` is no regular expression, or is not found in the name.
    """
    if group is not None:
        return _group_in(image.name, group)
    if image.is_dir() or is_dicom(image):
        identity = patient_id(image)
        if identity:
            return hashlib.sha256(identity.encode()).hexdigest()[:16]
    return case_key(image)


def _group_in(name: str, group: str) -> str:
    try:
        found = re.search(group, name)
    except re.error as err:
        raise InputError(
            f"--group '{group}' is no regular expression: {err}.", r"Example: --group 'patient\d+'"
        ) from err
    if not found:
        raise InputError(f"--group '{group}' is not found in the file name '{name}'.", "It must fit every image.")
    return str(found.group(1) if found.re.groups else found.group(0))


def read_dataset(labels: Path) -> Dataset | None:
    """Return the Decathlon `dataset.json` in a label folder or the folder above it, or None.

    Raises:
        InputError: a file of that name that is damaged or names files that are not there.
    """
    folder = (labels if labels.is_dir() else labels.parent).resolve()
    places = [folder / "dataset.json", folder.parent / "dataset.json"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [(entry["image"], entry["label"]) for entry in content.get("training", []) if isinstance(entry, dict)]
        names = _names_in(content.get("labels", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise InputError(f"'{path}' is no Decathlon dataset.json: {err}.", "Correct it, or give --images.") from err
    return Dataset(tuple((path.parent / image, path.parent / mask) for image, mask in entries), names)


def _names_in(labels: dict[str, object]) -> dict[int, str]:
    """Return value -> name from Decathlon's {"1": "liver"} or nnU-Net's {"liver": 1}; background is left out."""
    names = {}
    for key, entry in labels.items():
        value, name = (int(key), str(entry)) if key.isdigit() else (entry, key)
        if isinstance(value, int) and value > 0:
            names[value] = name
    return names
