import math
import warnings

import numpy as np
import pytest
import torch

from amsam_cli.metrics import (
    ABSENT,
    INVENTED,
    METRICS,
    MISSED,
    LesionCounts,
    count_lesions,
    dice,
    iou,
    measure_labels,
    measure_mask,
    precision,
    recall,
    surface_distances,
    volume_error_pct,
)


def box(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def random_pair(seed, shape=(9, 14, 12)):
    """Two blobs of the same smooth noise, one of them shifted and thresholded elsewhere."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return noise > 0.02, np.roll(noise, 1, axis=-1) > 0.05


def test_overlap_metrics_are_those_counted_by_hand():
    prediction = box((1, 4, 4), (0, 1), (0, 2), (0, 4))  # 8 pixels
    reference = box((1, 4, 4), (0, 1), (1, 3), (0, 2))  # 4 pixels, 2 of them shared

    assert dice(prediction, reference) == pytest.approx(4 / 12)
    assert iou(prediction, reference) == pytest.approx(2 / 10)
    assert precision(prediction, reference) == pytest.approx(2 / 8)
    assert recall(prediction, reference) == pytest.approx(2 / 4)
    assert volume_error_pct(prediction, reference) == pytest.approx(100.0)


@pytest.mark.parametrize("metric", [dice, iou, precision, recall, volume_error_pct], ids=lambda f: f.__name__)
def test_overlap_metric_is_nan_when_both_masks_are_empty(metric):
    empty = np.zeros((2, 3, 3), dtype=bool)

    assert math.isnan(metric(empty, empty))


def test_volume_error_is_negative_when_the_prediction_is_smaller():
    assert volume_error_pct(box((1, 4, 4), (0, 1), (0, 1), (0, 1)), box((1, 4, 4), (0, 1), (0, 2), (0, 2))) == -75.0


def test_identical_masks_score_perfectly():
    mask = box((5, 8, 8), (1, 4), (2, 6), (2, 6))

    values = measure_mask(mask, mask, spacing=(3.0, 1.0, 1.0)).values

    perfect = {"hd95_mm": 0.0, "assd_mm": 0.0, "volume_error_pct": 0.0}
    assert values == {name: perfect.get(name, 1.0) for name in METRICS}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shift_of_a_cube_is_measured_with_the_spacing_of_its_axis(axis):
    spacing = (5.0, 0.5, 2.0)
    cube = box((12, 12, 12), (3, 8), (3, 8), (3, 8))

    distances = surface_distances(np.roll(cube, 1, axis=axis), cube, spacing=spacing)

    assert distances.hausdorff(100.0) == pytest.approx(spacing[axis])


def test_distances_between_two_single_voxels_are_their_offset():
    # All surface elements of one voxel sit on its 8 corners; moved by 3 voxels of 2 mm, each is 2 or 3 voxels away.
    one, other = np.zeros((2, 3, 3, 9), dtype=bool)
    one[1, 1, 2] = other[1, 1, 5] = True

    distances = surface_distances(one, other, spacing=(1.0, 1.0, 2.0))

    assert set(distances.to_reference) == {4.0, 6.0}
    assert distances.mean() == pytest.approx(5.0)
    assert distances.hausdorff() == 6.0
    assert distances.within(3.9) == 0.0
    assert distances.within(4.0) == pytest.approx(0.5)


def test_contour_of_one_slice_is_measured_in_2d():
    # A 4 x 4 square and the same one pixel lower: 12 contour elements of length 1 and, at the corners, 4 of sqrt(1/2).
    square = box((1, 10, 10), (0, 1), (2, 6), (2, 6))
    lower = np.roll(square, 1, axis=1)

    distances = surface_distances(lower, square, spacing=(7.0, 1.0, 1.0))

    assert distances.areas_reference.sum() == pytest.approx(4 * 3 + 4 * math.sqrt(0.5))
    assert distances.hausdorff(100.0) == 1.0
    assert distances.within(0.5) == pytest.approx((2 * 3 + 2 * math.sqrt(0.5)) / (12 + 4 * math.sqrt(0.5)))


def test_slice_is_measured_in_2d_along_whichever_axis_it_is_flat():
    prediction, reference = (mask[0] for mask in (random_pair(3, (1, 20, 20)), random_pair(4, (1, 20, 20))))
    upright = measure_mask(prediction, reference, spacing=(9.0, 1.0, 2.0))

    turned = measure_mask(prediction.transpose(1, 0, 2), reference.transpose(1, 0, 2), spacing=(1.0, 9.0, 2.0))

    assert turned.values == upright.values


def test_structure_in_one_slice_of_a_volume_is_measured_in_3d():
    prediction = box((5, 10, 10), (2, 3), (2, 6), (2, 6))
    reference = box((5, 10, 10), (3, 4), (2, 6), (2, 6))

    agreement = measure_mask(prediction, reference, spacing=(4.0, 1.0, 1.0))

    assert agreement.values["hd95_mm"] == pytest.approx(4.0)


def test_structure_at_the_border_is_measured_like_one_inside():
    inside = measure_mask(
        box((8, 8, 8), (2, 5), (2, 5), (2, 5)), box((8, 8, 8), (2, 6), (2, 5), (2, 5)), spacing=(1, 1, 1)
    )

    corner = measure_mask(
        box((8, 8, 8), (0, 3), (0, 3), (0, 3)), box((8, 8, 8), (0, 4), (0, 3), (0, 3)), spacing=(1, 1, 1)
    )

    assert corner == inside


def test_surface_a_tolerance_away_is_within_it_when_the_header_rounds_the_spacing():
    cube = box((12, 12, 12), (3, 8), (3, 8), (3, 8))

    agreement = measure_mask(np.roll(cube, 1, axis=0), cube, spacing=(1.0000001, 1.0, 1.0), tolerance=1.0)

    assert agreement.values["nsd"] == 1.0


def test_nsd_grows_with_the_tolerance():
    cube = box((12, 12, 12), (3, 8), (3, 8), (3, 8))

    strict, loose = (
        measure_mask(np.roll(cube, 2, axis=0), cube, spacing=(1, 1, 1), tolerance=t).values["nsd"] for t in (1.0, 2.0)
    )

    assert strict is not None
    assert strict < 1.0 == loose


@pytest.mark.parametrize(
    ("predicted", "expected", "note"), [(False, -100.0, MISSED), (True, 100.0, INVENTED)], ids=["missed", "invented"]
)
def test_structure_in_one_mask_only_scores_worst(predicted, expected, note):
    structure, empty = box((3, 40, 40), (0, 2), (5, 9), (5, 9)), np.zeros((3, 40, 40), dtype=bool)
    pair = (structure, empty) if predicted else (empty, structure)

    agreement = measure_mask(*pair, spacing=(10.0, 0.5, 1.0))

    diagonal = pytest.approx(math.sqrt(30**2 + 20**2 + 40**2))
    assert agreement.note == note
    assert agreement.values == {
        **dict.fromkeys(METRICS, 0.0), "hd95_mm": diagonal, "assd_mm": diagonal, "volume_error_pct": expected
    }  # fmt: skip


def test_diagonal_of_a_picture_is_that_of_its_plane():
    agreement = measure_mask(
        np.zeros((1, 30, 40), dtype=bool), box((1, 30, 40), (0, 1), (1, 2), (1, 2)), spacing=(1, 1, 1)
    )

    assert agreement.values["hd95_mm"] == 50.0


def test_structure_absent_in_both_scores_nothing():
    empty = np.zeros((3, 4, 4), dtype=bool)

    agreement = measure_mask(empty, empty, spacing=(1, 1, 1))

    assert agreement.note == ABSENT
    assert set(agreement.values.values()) == {None}


def test_labels_are_measured_each_for_itself():
    prediction, reference = np.zeros((2, 4, 9, 9), dtype=np.uint16)
    prediction[1:3, 1:4, 1:4] = reference[1:3, 1:4, 1:4] = 2
    prediction[1:3, 5:8, 5:8] = 700
    reference[1:3, 5:8, 4:7] = 700

    found = measure_labels(prediction, reference, spacing=(1, 1, 1))

    assert list(found) == [2, 700]
    assert found[2].values["dice"] == 1.0
    assert found[700].values["dice"] == pytest.approx(2 / 3)
    assert found[700] == measure_mask(prediction == 700, reference == 700, spacing=(1, 1, 1))


def test_lesions_are_counted_piece_by_piece():
    # Three lesions: one found, one missed, one met by a blot of 20 voxels that shares only one with it.
    prediction = box((1, 12, 12), (0, 1), (1, 4), (1, 4)) | box((1, 12, 12), (0, 1), (6, 10), (6, 11))
    reference = box((1, 12, 12), (0, 1), (1, 4), (1, 4)) | box((1, 12, 12), (0, 1), (1, 3), (9, 11))
    reference |= box((1, 12, 12), (0, 1), (9, 10), (6, 7))

    counts = count_lesions(prediction, reference)

    assert counts == LesionCounts(found=1, predicted=2, real=3)
    assert (counts.f1, counts.precision, counts.recall) == (pytest.approx(2 / 5), 0.5, pytest.approx(1 / 3))


def test_one_blot_over_two_lesions_finds_one():
    reference = box((1, 4, 9), (0, 1), (0, 4), (0, 4)) | box((1, 4, 9), (0, 1), (0, 4), (5, 9))

    assert count_lesions(np.ones((1, 4, 9), dtype=bool), reference) == LesionCounts(1, 1, 2)


def test_two_pieces_of_one_lesion_find_it_once():
    prediction = box((1, 4, 9), (0, 1), (0, 4), (0, 4)) | box((1, 4, 9), (0, 1), (0, 4), (5, 9))

    assert count_lesions(prediction, np.ones((1, 4, 9), dtype=bool)) == LesionCounts(1, 2, 1)


def test_lesion_is_given_to_the_piece_that_fits_it_best():
    # The larger piece overlaps both lesions, more of the second; the smaller one fits the first alone.
    reference = box((1, 1, 20), (0, 1), (0, 1), (0, 6)) | box((1, 1, 20), (0, 1), (0, 1), (8, 16))
    prediction = box((1, 1, 20), (0, 1), (0, 1), (0, 3)) | box((1, 1, 20), (0, 1), (0, 1), (4, 16))

    assert count_lesions(prediction, reference).found == 2


def test_pieces_that_touch_at_a_corner_are_one_lesion():
    mask = np.eye(3, dtype=bool)[None]

    assert count_lesions(mask, mask) == LesionCounts(1, 1, 1)


def test_lesions_of_empty_masks_are_none():
    empty = np.zeros((1, 3, 3), dtype=bool)

    counts = count_lesions(empty, empty)

    assert counts == LesionCounts(0, 0, 0)
    assert math.isnan(counts.f1)


def test_surface_distances_refuse_an_empty_mask():
    with pytest.raises(ValueError, match="empty"):
        surface_distances(np.zeros((2, 3, 3), dtype=bool), box((2, 3, 3), (0, 1), (0, 1), (0, 1)), spacing=(1, 1, 1))


PAIRS = 1000


def test_dice_and_iou_equal_monai_on_a_thousand_pairs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_dice, compute_iou
    pairs = np.array([random_pair(seed, (5, 8, 7)) for seed in range(PAIRS)])
    batch = [torch.from_numpy(pairs[:, side, None].astype(np.float64)) for side in (0, 1)]

    ours = np.array([[dice(*pair), iou(*pair)] for pair in pairs])

    theirs = torch.cat([compute_dice(*batch), compute_iou(*batch)], dim=1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package reads names that SciPy is about to drop
@pytest.mark.parametrize("shape", [(5, 8, 7), (1, 15, 13)], ids=["3d", "2d"])
def test_distances_equal_the_surface_distance_package_on_a_thousand_pairs(shape):
    import surface_distance as package

    spacing = (2.5, 0.7, 1.3)
    ours, theirs = [], []
    for seed in range(PAIRS // 2):
        prediction, reference = random_pair(seed, shape)
        found = measure_mask(prediction, reference, spacing=spacing, tolerance=1.0).values
        ours.append([found[metric] for metric in ("hd95_mm", "nsd", "assd_mm")])
        flat = shape[0] == 1
        masks = (reference[0], prediction[0]) if flat else (reference, prediction)
        surfaces = package.compute_surface_distances(*masks, spacing[1:] if flat else spacing)
        weights = [surfaces[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
        both = package.compute_average_surface_distance(surfaces)
        theirs.append(
            [
                package.compute_robust_hausdorff(surfaces, 95),
                package.compute_surface_dice_at_tolerance(surfaces, 1.0),
                np.average(both, weights=weights),
            ]
        )

    np.testing.assert_allclose(ours, theirs, atol=1e-9)
