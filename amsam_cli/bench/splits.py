"""Which slices are annotated and which scans are segmented: drawn by seed, written down, the same for every method.

The rule. Patients are shuffled. The first ones support: each gives one scan at random and two annotated slices of it
(one, where scans are pictures), so 1 or 2 shots are one patient, 4 are two, 8 are four. K shots are the first K of this
list: more shots only ever add. A slice is drawn among those that show at least a tenth of the scan's largest labelled
area, and among these from the ones that show the most labels no shot has shown yet. The next patients, at most six,
are queries with one scan each, so that no patient is on both sides. A set too small for eight shots and four queries
has fewer shots.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from amsam_cli.errors import InputError
from amsam_cli.report import Json, read_json, write_json
from amsam_cli.volume import Plane

if TYPE_CHECKING:
    from amsam_cli.io import Candidate

SHOTS = (1, 2, 4, 8)
SEEDS = (0, 1, 2)
SLICES_PER_PATIENT = 2
MOST_QUERIES, FEWEST_QUERIES = 6, 4
AREA_SHARE = 0.1
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Split:
    """One draw from a set.

    Attributes:
        seed: of the draw, and of every method that learns from it.
        supports: annotated slices in order, "case_03.nii.gz:41" as in `Candidate.origin`; K shots are the first K.
        queries: file names of the scans to segment.
    """

    seed: int
    supports: tuple[str, ...]
    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A folder of scans with labels, and what is drawn from it.

    Attributes:
        name: of the folder that holds `images` and `labels`.
        labels: value -> name, the structures that count.
        group: regular expression for the patient in a file name; None where every file is another patient.
        only: regular expression for the scans that take part; "" for all.
        merged: whether all values count as the first of `labels`.
        window: side in pixels that slices are cut to, somewhere by chance; 0 leaves them whole.
        plane: how scans are sliced, decided when the splits are drawn; None until then.
        splits: by seed.
    """

    name: str
    labels: Mapping[int, str]
    group: str | None = None
    only: str = ""
    merged: bool = False
    window: int = 0
    plane: Plane | None = None
    splits: tuple[Split, ...] = field(default=())

    @property
    def most_shots(self) -> int:
        """How many slices every split has to learn from."""
        return min((len(split.supports) for split in self.splits), default=0)

    @property
    def shots(self) -> tuple[int, ...]:
        """The shot counts of `SHOTS` that every split has slices for."""
        return tuple(count for count in SHOTS if count <= self.most_shots)

    def to_json(self) -> dict[str, Json]:
        """Return it for `write_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the set that was written."""
        labels = {int(value): str(name) for value, name in content["labels"].items()}
        splits = [Split(each["seed"], tuple(each["supports"]), tuple(each["queries"])) for each in content["splits"]]
        return cls(**{**content, "labels": labels, "splits": tuple(splits)})


# Every hippocampus counts as a patient of its own: which two are the sides of one person is not published.
# Nodules lie in the middle of their 128 px crops, which a method could learn instead of what they look like.
# Of the gliomas the FLAIR scans alone, and the whole tumour: its parts need contrasts that FLAIR does not have.
SETS = (
    DataSet("acdc_heart_mr", {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}, group=r"^(.+)_frame"),
    DataSet("msd_hippocampus_mr", {1: "anterior", 2: "posterior"}),
    DataSet("lidc_nodules_ct", {1: "nodule"}, group=r"^LIDC-IDRI-\d+", window=80),
    DataSet("cxr_lungs_xray", {1: "lungs"}),
    DataSet("brats2015_glioma_mr", {1: "whole tumour"}, group=r"pat\d+", only="_flair", merged=True),
    DataSet("ph2_skinlesion", {1: "lesion"}),
)


def label_folder(folder: Path) -> Path:
    """Return where a set's masks lie: its folder `labels`, or `masks` where there is no such."""
    return folder / "labels" if (folder / "labels").is_dir() else folder / "masks"


def load_splits(path: Path | None = None) -> dict[str, DataSet]:
    """Return the sets of a splits file by name; None takes the one that comes with amsam.

    Raises:
        InputError: it cannot be read, or is of another format.
    """
    path = path or Path(str(resources.files("amsam_cli.bench"))) / "splits.json"
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(f"'{path}' is no splits file of format {FORMAT}.", "Draw it anew with draw_splits.")
    return {entry["name"]: DataSet.from_json(entry) for entry in content["sets"]}


def write_splits(sets: Sequence[DataSet], path: Path) -> None:
    """Write sets and their splits.

    Raises:
        InputError: the folder cannot be written.
    """
    write_json({"format": FORMAT, "sets": [dataset.to_json() for dataset in sets]}, path)


def draw_splits(data: Path, sets: Sequence[DataSet] = SETS, *, seeds: Sequence[int] = SEEDS) -> list[DataSet]:
    """Return the sets with splits drawn from their folders in `data`; equal files and seeds give equal splits.

    Raises:
        InputError: a set is not there, cannot be read, or has too few patients.
    """
    return [_draw(dataset, data / dataset.name, seeds) for dataset in sets]


def _draw(dataset: DataSet, folder: Path, seeds: Sequence[int]) -> DataSet:
    from amsam_cli.io import find_shots

    found = find_shots(label_folder(folder), folder / "images", group=dataset.group)
    candidates = [each for each in found if re.search(dataset.only, each.pair.image.name)]
    patients = len({each.pair.patient for each in candidates})
    if patients <= FEWEST_QUERIES:
        raise InputError(
            f"'{folder}' has scans of {patients} patients; expected at least {FEWEST_QUERIES + 1}.",
            "Add patients, or check the regular expression for the patient.",
        )
    splits = [_draw_split(candidates, seed, dataset) for seed in seeds]
    return replace(dataset, plane=candidates[0].plane, splits=tuple(splits))


def _draw_split(candidates: Sequence[Candidate], seed: int, dataset: DataSet) -> Split:
    chance = random.Random(f"{dataset.name} {seed}")
    scans: dict[str, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in candidates:
        scans[candidate.pair.patient][candidate.pair.image.name].append(candidate)
    patients = sorted(scans)
    chance.shuffle(patients)
    per_patient = 1 if all(candidate.depth == 1 for candidate in candidates) else SLICES_PER_PATIENT
    supporting = min(max(SHOTS) // per_patient, len(patients) - FEWEST_QUERIES)
    supports: list[Candidate] = []
    for patient in patients[:supporting]:
        scan = scans[patient][chance.choice(sorted(scans[patient]))]
        for _ in range(per_patient):
            supports.append(_draw_slice(scan, supports, chance))
    asked = patients[supporting : supporting + MOST_QUERIES]
    queries = sorted(chance.choice(sorted(scans[patient])) for patient in asked)
    return Split(seed, tuple(each.origin for each in supports), tuple(queries))


def _draw_slice(scan: Sequence[Candidate], chosen: Sequence[Candidate], chance: random.Random) -> Candidate:
    """Return a slice of `scan` that is not chosen yet, by the rule above."""
    largest = max(sum(each.areas.values()) for each in scan)
    left = [each for each in scan if each not in chosen]
    fair = [each for each in left if sum(each.areas.values()) >= AREA_SHARE * largest] or left
    shown = {label for each in chosen for label in each.areas}
    news = [len(each.areas.keys() - shown) for each in fair]
    return chance.choice([each for each, new in zip(fair, news, strict=True) if new == max(news)])
