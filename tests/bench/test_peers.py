"""Every peer learns from the shots of a toy task, finds the ball of another patient and says how it was set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amsam_cli.bench.base import Query
from amsam_cli.bench.contenders import AVAILABLE_METHODS, load_method
from amsam_cli.errors import InputError
from amsam_cli.metrics import dice
from amsam_cli.models import builtin
from amsam_cli.models.sam2 import Sam2
from tests.scans import BALL, NAMES, ball_scan, ball_shot
from tests.toy import ToyModel

SHOTS = [ball_shot(0), ball_shot(1)]
MIDDLE = slice(3, 6)


def middle_of(seed):
    """Return three slices of a scan, and their labels, that all show both balls."""
    volume, truth = ball_scan(seed)
    return volume.part(3, 6), type(truth)(truth.data[MIDDLE], truth.geometry.part(3, 6), truth.names)


@pytest.fixture
def weights(monkeypatch, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"abc")
    return f"builtin={path}"


def test_registration_carries_the_ball_over():
    from amsam_cli.bench.registration import LabelTransfer

    volume, truth = middle_of(5)

    found = LabelTransfer(image_size=48).fit(SHOTS, seed=0).segment(Query(volume, truth))

    assert found.geometry.matches(truth.geometry)
    assert dice(found.mask(BALL), truth.mask(BALL)) > 0.8


def test_registration_gives_the_same_answer_twice():
    from amsam_cli.bench.registration import LabelTransfer

    volume, truth = middle_of(5)
    method = LabelTransfer(image_size=32)

    first, second = (method.fit(SHOTS, seed=0).segment(Query(volume, truth)) for _ in range(2))

    np.testing.assert_array_equal(first.data, second.data)


def test_registration_bears_a_black_slice():
    from amsam_cli.bench.registration import LabelTransfer

    volume, truth = middle_of(5)
    black = type(volume)(np.zeros_like(volume.data), volume.geometry, (0.0, 1.0))

    found = LabelTransfer(image_size=32).fit(SHOTS, seed=0).segment(Query(black, truth))

    assert found.data.shape == truth.data.shape


def test_forest_finds_the_ball():
    pytest.importorskip("sklearn")
    from amsam_cli.bench.forest import PixelForest

    volume, truth = middle_of(5)

    found = PixelForest(image_size=48, trees=20).fit(SHOTS, seed=0).segment(Query(volume, truth))

    assert dice(found.mask(BALL), truth.mask(BALL)) > 0.8
    assert found.names == NAMES


def test_forest_features_see_place_only_when_asked():
    pytest.importorskip("sklearn")
    from amsam_cli.bench.forest import features_of

    flat = np.full((1, 16, 16), 0.5, dtype=np.float32)

    assert np.ptp(features_of(flat, place=False), axis=0).max() < 1e-3
    assert np.ptp(features_of(flat, place=True), axis=0).max() > 0.9


def test_persam_clicks_where_it_looks_alike(monkeypatch, weights):
    from amsam_cli.bench import backbone, persam

    monkeypatch.setattr(backbone.models, "load", lambda name, device: ToyModel())
    volume, truth = middle_of(5)
    clicked = []
    decode = ToyModel.decode
    monkeypatch.setattr(ToyModel, "decode", lambda self, e, p: clicked.append(p) or decode(self, e, p))

    found = persam.PrototypePrompts(model=weights).fit(SHOTS, seed=0).segment(Query(volume, truth))

    ball = torch.from_numpy(truth.mask(BALL))
    places = (clicked[0].points[:, 0] * 48 / 64).long()
    assert found.geometry.matches(truth.geometry)
    assert all(ball[row, y - 6 : y + 7, x - 6 : x + 7].any() for row, (x, y) in enumerate(places.tolist()))
    assert clicked[0].point_labels[0].tolist() == [1, 0]


def test_box_on_one_slice_is_the_true_one_of_the_largest(monkeypatch, weights):
    from amsam_cli.bench import backbone, human

    torch.manual_seed(0)
    model = Sam2(builtin.build_network(), "builtin", 64)
    monkeypatch.setattr(backbone.models, "load", lambda name, device: model)
    volume, truth = ball_scan(5, depth=5)
    fitted = human.BoxOnOneSlice(model=weights).fit(SHOTS, seed=0)
    asked = []
    original = fitted.predictor.add_new_points_or_box
    monkeypatch.setattr(
        fitted.predictor, "add_new_points_or_box", lambda state, **k: asked.append(k) or original(state, **k)
    )

    found = fitted.segment(Query(volume, truth))

    rows, columns = np.nonzero(truth.mask(BALL)[2])
    scale = 64 / 48
    expected = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * scale
    assert found.geometry.matches(truth.geometry)
    assert asked[0]["frame_idx"] == 2
    assert np.abs(np.array(asked[0]["box"]) - expected).max() <= 2


def test_box_is_drawn_for_no_structure_that_is_not_there(monkeypatch, weights):
    from amsam_cli.bench import backbone, human

    model = Sam2(builtin.build_network(), "builtin", 64)
    monkeypatch.setattr(backbone.models, "load", lambda name, device: model)
    volume, truth = ball_scan(5, depth=3)
    empty = type(truth)(np.zeros_like(truth.data), truth.geometry, truth.names)

    found = human.BoxOnOneSlice(model=weights).fit(SHOTS, seed=0).segment(Query(volume, empty))

    assert found.values() == ()


def test_predictor_shares_the_weights_of_the_network():
    from amsam_cli.bench.human import predictor_of

    network = builtin.build_network()

    predictor = predictor_of(network)

    assert all(a is b for a, b in zip(network.parameters(), predictor.parameters(), strict=True))
    assert type(network).__name__ == "SAM2Base"


@pytest.mark.parametrize("name", [name for name in AVAILABLE_METHODS if name != "nnunet"])
def test_method_is_loaded_by_its_name_and_says_how_it_is_set(name):
    if name == "forest":
        pytest.importorskip("sklearn")

    method = load_method(name)

    assert method.name == name
    assert method.settings
    assert method.version


def test_method_without_its_package_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr("amsam_cli.bench.contenders.import_module", missing)

    with pytest.raises(InputError, match="needs the package sklearn") as caught:
        load_method("forest")

    assert "amsam[bench]" in caught.value.hint
