"""How well two masks agree: overlap, volume, and distance between their surfaces.

Knows arrays and voxel sizes; no files, names or tables. Distances are in the unit of `spacing`: mm, or pixels of a
picture. An array with an axis of length one is measured in 2D: contours of its one slice, not surfaces of a slab.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from surface_distance import lookup_tables

Mask = NDArray[np.bool_]

METRICS = (
    "dice",
    "iou",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_error_pct",
    "precision",
    "recall",
    "lesion_f1",
    "lesion_precision",
    "lesion_recall",
)

LESION_IOU = 0.1
"""A lesion is found by a piece of the prediction that overlaps it by more than this: small lesions are not missed for a
voxel's breadth, and one blot over all of them finds none."""

ABSENT = "absent in both"
MISSED = "missed: the reference has it, the prediction does not"
INVENTED = "invented: the prediction has it, the reference does not"

# A voxel size of 1 mm is read as 1.0000001 from many a header; a surface one voxel off is within 1 mm all the same.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the metrics say about one structure.

    Attributes:
        values: metric -> value, a key for each of `METRICS`; all None if the structure is absent in both masks.
        note: why, where values are set by rule (`ABSENT`, `MISSED`, `INVENTED`); else "".
    """

    values: Mapping[str, float | None]
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """Distances between two surfaces, each cut into elements about a voxel in size.

    Attributes:
        to_reference: (N,) float64, from each element of the prediction's surface to the nearest of the reference's.
        areas_prediction: (N,) float64, the area of each of these elements; lengths in 2D.
        to_prediction: (M,) float64, from each element of the reference's surface.
        areas_reference: (M,) float64.
    """

    to_reference: NDArray[np.float64]
    areas_prediction: NDArray[np.float64]
    to_prediction: NDArray[np.float64]
    areas_reference: NDArray[np.float64]

    def hausdorff(self, percent: float = 95.0) -> float:
        """Return the distance that `percent` of the area keeps within, the larger of both directions."""
        forward = _weighted_percentile(self.to_reference, self.areas_prediction, percent)
        return max(forward, _weighted_percentile(self.to_prediction, self.areas_reference, percent))

    def mean(self) -> float:
        """Return the mean over the area of both surfaces: the average symmetric surface distance."""
        total = self.to_reference @ self.areas_prediction + self.to_prediction @ self.areas_reference
        return float(total / (self.areas_prediction.sum() + self.areas_reference.sum()))

    def within(self, tolerance: float) -> float:
        """Return the share of both surfaces' area that is at most `tolerance` off: the normalised surface Dice."""
        limit = tolerance + _ROUNDING
        close = self.areas_prediction[self.to_reference <= limit].sum()
        close += self.areas_reference[self.to_prediction <= limit].sum()
        return float(close / (self.areas_prediction.sum() + self.areas_reference.sum()))


def dice(prediction: Mask, reference: Mask) -> float:
    """Return twice the overlap over the sum of both sizes; NaN if both are empty.

    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    return _ratio(2 * _count(prediction & reference), _count(prediction) + _count(reference))


def iou(prediction: Mask, reference: Mask) -> float:
    """Return the overlap over the union; NaN if both are empty.

    >>> iou(np.array([True, True, False]), np.array([False, True, False]))
    0.5
    """
    return _ratio(_count(prediction & reference), _count(prediction | reference))


def precision(prediction: Mask, reference: Mask) -> float:
    """Return the share of the prediction that is right; NaN if it is empty."""
    return _ratio(_count(prediction & reference), _count(prediction))


def recall(prediction: Mask, reference: Mask) -> float:
    """Return the share of the reference that was found; NaN if it is empty."""
    return _ratio(_count(prediction & reference), _count(reference))


def volume_error_pct(prediction: Mask, reference: Mask) -> float:
    """Return how much larger the prediction is, in % of the reference; negative if smaller, NaN if that is empty.

    >>> volume_error_pct(np.array([True, True, True]), np.array([False, True, True]))
    50.0
    """
    return 100.0 * _ratio(_count(prediction) - _count(reference), _count(reference))


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """How many connected pieces of two masks belong to each other.

    Attributes:
        found: pieces of the reference that have a piece of the prediction of their own.
        predicted: pieces of the prediction.
        real: pieces of the reference.
    """

    found: int
    predicted: int
    real: int

    @property
    def f1(self) -> float:
        """Found lesions, twice, over all pieces of both masks; NaN if there are none."""
        return _ratio(2 * self.found, self.predicted + self.real)

    @property
    def precision(self) -> float:
        """The share of predicted pieces that are lesions; NaN if there are none."""
        return _ratio(self.found, self.predicted)

    @property
    def recall(self) -> float:
        """The share of lesions that were found; NaN if there are none."""
        return _ratio(self.found, self.real)


def count_lesions(prediction: Mask, reference: Mask, *, least_iou: float = LESION_IOU) -> LesionCounts:
    """Return how many lesions were found: connected pieces, corners included, matched one to one, best IoU first.

    Args:
        prediction: (D, H, W) or (H, W) bool.
        reference: like `prediction`.
        least_iou: IoU above which a piece may count as a lesion's.

    >>> count_lesions(np.array([[1, 0, 1, 0, 0]]) > 0, np.array([[1, 0, 0, 0, 1]]) > 0)
    LesionCounts(found=1, predicted=2, real=2)
    """
    corners = np.ones((3,) * prediction.ndim, dtype=bool)
    pieces, predicted = ndimage.label(prediction, corners)
    lesions, real = ndimage.label(reference, corners)
    both = prediction & reference
    codes, overlaps = np.unique(pieces[both].astype(np.int64) * (real + 1) + lesions[both], return_counts=True)
    pairs = np.stack(np.divmod(codes, real + 1))
    sizes = np.bincount(pieces[prediction])[pairs[0]] + np.bincount(lesions[reference])[pairs[1]] if both.any() else 1
    alike = overlaps / (sizes - overlaps)
    free_pieces, free_lesions = set(range(1, predicted + 1)), set(range(1, real + 1))
    for index in np.argsort(-alike, kind="stable"):
        piece, lesion = (int(number) for number in pairs[:, index])
        if alike[index] > least_iou and piece in free_pieces and lesion in free_lesions:
            free_pieces.remove(piece)
            free_lesions.remove(lesion)
    return LesionCounts(real - len(free_lesions), predicted, real)


def surface_distances(prediction: Mask, reference: Mask, *, spacing: Sequence[float]) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks, neither of them empty.

    Surface elements, their places and areas are those of Nikolov et al. 2018 (Deep learning to achieve clinically
    applicable segmentation of head and neck anatomy), whose `surface-distance` package brings the area tables. Its own
    loop is not used: it calls names that NumPy 2 and SciPy drop, and takes ten times as long on large structures.

    Args:
        prediction: (D, H, W) or (H, W) bool.
        reference: like `prediction`.
        spacing: voxel size along each axis.

    Raises:
        ValueError: a mask is empty.
    """
    planar = _flat_axis(prediction.shape)
    if planar is not None:
        prediction, reference = prediction.squeeze(planar), reference.squeeze(planar)
        spacing = _without(spacing, planar)
    return _surface_distances(prediction, reference, np.asarray(spacing, dtype=np.float64))


def measure_mask(prediction: Mask, reference: Mask, *, spacing: Sequence[float], tolerance: float = 1.0) -> Agreement:
    """Return every metric of one structure.

    A structure missed or invented scores 0 in overlap and NSD, the diagonal of the image as distance, and 100 % of
    volume error; one that is absent in both scores nothing.

    Args:
        prediction: (D, H, W) bool.
        reference: (D, H, W) bool.
        spacing: voxel size along (D, H, W), mm or px.
        tolerance: how far off a surface may be for NSD, in the unit of `spacing`.
    """
    found = measure_labels(
        prediction.astype(np.uint8), reference.astype(np.uint8), spacing=spacing, tolerance=tolerance
    )
    return found.get(1, Agreement(dict.fromkeys(METRICS), ABSENT))


def measure_labels(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], *, spacing: Sequence[float], tolerance: float = 1.0
) -> dict[int, Agreement]:
    """Return every metric of every label that occurs in either map, ascending, by the rules of `measure_mask`.

    Args:
        prediction: (D, H, W) label values, 0 background.
        reference: (D, H, W) label values on the same grid.
        spacing: voxel size along (D, H, W), mm or px.
        tolerance: how far off a surface may be for NSD, in the unit of `spacing`.
    """
    planar = _flat_axis(prediction.shape)
    if planar is not None:
        prediction, reference = prediction.squeeze(planar), reference.squeeze(planar)
        spacing = _without(spacing, planar)
    size = np.asarray(spacing, dtype=np.float64)
    diagonal = float(np.linalg.norm(size * prediction.shape))
    result = {}
    for label, box in sorted(_joint_boxes(prediction, reference).items()):
        pair = prediction[box] == label, reference[box] == label
        result[label] = _agreement(*pair, size=size, tolerance=tolerance, diagonal=diagonal)
    return result


def _agreement(
    prediction: Mask, reference: Mask, *, size: NDArray[np.float64], tolerance: float, diagonal: float
) -> Agreement:
    """Return every metric of two masks, at least one of them not empty, that need not span the image."""
    if not prediction.any():
        return Agreement(_by_rule(diagonal, volume_error=-100.0), MISSED)
    if not reference.any():
        return Agreement(_by_rule(diagonal, volume_error=100.0), INVENTED)
    surfaces = _surface_distances(prediction, reference, size)
    lesions = count_lesions(prediction, reference)
    values = {
        "dice": dice(prediction, reference),
        "iou": iou(prediction, reference),
        "hd95_mm": surfaces.hausdorff(95.0),
        "assd_mm": surfaces.mean(),
        "nsd": surfaces.within(tolerance),
        "volume_error_pct": volume_error_pct(prediction, reference),
        "precision": precision(prediction, reference),
        "recall": recall(prediction, reference),
        "lesion_f1": lesions.f1,
        "lesion_precision": lesions.precision,
        "lesion_recall": lesions.recall,
    }
    return Agreement(values)


def _by_rule(diagonal: float, *, volume_error: float) -> dict[str, float | None]:
    worst: dict[str, float | None] = dict.fromkeys(METRICS, 0.0)
    return {**worst, "hd95_mm": diagonal, "assd_mm": diagonal, "volume_error_pct": volume_error}


def _surface_distances(prediction: Mask, reference: Mask, size: NDArray[np.float64]) -> SurfaceDistances:
    places_prediction, areas_prediction = _surface_elements(prediction, size)
    places_reference, areas_reference = _surface_elements(reference, size)
    if not (len(places_prediction) and len(places_reference)):
        raise ValueError("an empty mask has no surface")
    to_reference = _nearest(places_prediction, places_reference, size)
    to_prediction = _nearest(places_reference, places_prediction, size)
    return SurfaceDistances(
        *_sorted_together(to_reference, areas_prediction), *_sorted_together(to_prediction, areas_reference)
    )


def _surface_elements(mask: Mask, size: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where voxel corners lie on the surface, (N, axes), and the area that belongs to each, (N,)."""
    kernel, areas = _element_table(tuple(size.tolist()))
    # Each corner's code tells which of the voxels around it are inside; there is one corner more than voxels.
    codes = ndimage.correlate(np.pad(mask.astype(np.uint8), [(0, 1)] * mask.ndim), kernel, mode="constant")
    places = np.argwhere((codes != 0) & (codes != len(areas) - 1))
    return places, areas[codes[tuple(places.T)]]


@lru_cache(maxsize=64)
def _element_table(size: tuple[float, ...]) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    """Return the kernel that codes which voxels round a corner are inside, and the area of each code."""
    if len(size) == 2:
        lengths = lookup_tables.create_table_neighbour_code_to_contour_length(size)
        return lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL, lengths
    return lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL, lookup_tables.create_table_neighbour_code_to_surface_area(size)


def _nearest(places: NDArray[np.int64], others: NDArray[np.int64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance from each of `places` to the nearest of `others`, (N,)."""
    _, index = KDTree(others * size).query(places * size)
    # From whole voxels: the tree's own distances carry rounding that would lift some of them over a tolerance.
    offsets = (places - others[index]) * size
    distances: NDArray[np.float64] = np.linalg.norm(offsets, axis=1)
    return distances


def _sorted_together(
    distances: NDArray[np.float64], areas: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(distances, kind="stable")
    return distances[order], areas[order]


def _weighted_percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percent: float) -> float:
    """Return the first of the sorted `distances` at which the area so far reaches `percent` of all."""
    shares = np.cumsum(areas) / areas.sum()
    index = int(np.searchsorted(shares, percent / 100.0))
    return float(distances[min(index, len(distances) - 1)])


def _joint_boxes(prediction: NDArray[np.integer], reference: NDArray[np.integer]) -> dict[int, tuple[slice, ...]]:
    """Return for each label the smallest box that holds it in both maps: all that its metrics need to see."""
    boxes: dict[int, tuple[slice, ...]] = {}
    for labels in (prediction, reference):
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is not None:
                other = boxes.get(label, box)
                boxes[label] = tuple(
                    slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, other, strict=True)
                )
    return boxes


def _flat_axis(shape: Sequence[int]) -> int | None:
    """Return the axis along which a 3D array is one slice only, if there is one."""
    return list(shape).index(1) if len(shape) == 3 and 1 in shape else None


def _without(spacing: Sequence[float], axis: int) -> tuple[float, ...]:
    return (*spacing[:axis], *spacing[axis + 1 :])


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
