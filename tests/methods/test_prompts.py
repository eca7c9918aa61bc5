from __future__ import annotations

import torch

from amsam_cli.methods.prompts import PromptRule, find_prompts, from_detections, learn_rule, spoil
from amsam_cli.preprocess import Placement
from amsam_cli.volume import Geometry


def square_prior(value: float = 0.9) -> torch.Tensor:
    """Return a prior (1, 16, 16) with a square over rows 4..7 and columns 8..11."""
    prior = torch.zeros(1, 16, 16)
    prior[0, 4:8, 8:12] = value
    return prior


def test_find_prompts_boxes_the_likely_region_and_clicks_inside_it():
    found = find_prompts(square_prior(), PromptRule(0.5, 0.0), 256)

    assert found.point_labels[0].tolist() == [2, 3, 1]
    (left, top), (right, bottom), (x, y) = found.points[0].tolist()
    assert abs(left - 128) <= 8  # column 8 of 16 at 256 px, give or take interpolation and enlargement
    assert abs(right - 192) <= 8
    assert abs(top - 64) <= 8
    assert abs(bottom - 128) <= 8
    assert left < x < right
    assert top < y < bottom


def test_find_prompts_says_nothing_where_nothing_is_likely():
    found = find_prompts(square_prior(0.1), PromptRule(0.5, 0.0), 256)

    assert found.point_labels[0].tolist() == [-1, -1, -1]


def test_find_prompts_ignores_components_smaller_than_any_support():
    found = find_prompts(square_prior(), PromptRule(0.5, smallest=0.5), 256)

    assert found.point_labels[0].tolist() == [-1, -1, -1]


def test_find_prompts_takes_the_likelier_of_two_components():
    prior = square_prior(0.95)
    prior[0, 12:14, 1:3] = 0.6

    found = find_prompts(prior, PromptRule(0.5, 0.0), 256)

    assert found.points[0, 0, 0] > 100


def test_learn_rule_picks_the_threshold_that_overlaps_best():
    prior = square_prior(0.75)
    prior[prior == 0] = 0.45
    masks = torch.zeros(1, 64, 64)
    masks[0, 16:32, 32:48] = 1

    rule = learn_rule(prior, masks)

    assert 0.45 < rule.threshold < 0.75
    assert abs(rule.smallest - 0.1 * 256 / 4096) < 1e-6


def test_spoil_drops_whole_prompts_and_moves_the_rest():
    found = find_prompts(square_prior().expand(200, -1, -1), PromptRule(0.5, 0.0), 256)

    spoiled = spoil(found, torch.Generator().manual_seed(0), drop=0.3)

    dropped = (spoiled.point_labels == -1).all(dim=1).float().mean()
    assert 0.2 < float(dropped) < 0.4
    assert not torch.equal(spoiled.points, found.points)


def test_rule_is_silent_where_the_prior_knows_nothing():
    masks = torch.zeros(1, 64, 64)
    masks[0, 48:60, 4:16] = 1

    rule = learn_rule(square_prior(), masks)

    assert rule.is_silent
    assert find_prompts(square_prior(), rule, 256).point_labels[0].tolist() == [-1, -1, -1]


def test_from_detections_takes_the_surest_box_into_the_frame():
    # A slice of 20 x 40 voxels at equal spacing fills a frame of 80 px from row 20 to 60, two pixels to a voxel.
    placement = Placement.of(Geometry.of_picture(20, 40), 80)
    sure, unsure = ((5.0, 2.0, 15.0, 12.0), 0.8), ((0.0, 0.0, 40.0, 20.0), 0.3)

    found = from_detections([[unsure, sure], []], placement)

    assert found.points[0, :2].tolist() == [[10, 24], [30, 44]]
    assert found.point_labels.tolist() == [[2, 3, -1], [-1, -1, -1]]
