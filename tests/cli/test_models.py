from __future__ import annotations

from tests.cli.conftest import assert_two_lines


def test_models_are_listed(amsam):
    assert [entry["name"] for entry in amsam("models", "list", "--json").json["models"]][:2] == [
        "builtin",
        "sam2.1-tiny",
    ]
    assert "medsam2" in amsam("models").out


def test_models_pull_says_what_to_place_where_when_offline(amsam):
    ran = amsam("models", "pull", "sam2.1-tiny")

    assert ran.code == 1
    assert_two_lines(ran.err)
    assert "sam2.1_hiera_tiny.pt" in ran.err


def test_models_verify_exits_1_when_a_file_is_damaged(amsam, tmp_path):
    fine = amsam("models", "verify").code
    (tmp_path / "amsam_home").mkdir()
    (tmp_path / "amsam_home" / "sam2.1_hiera_tiny.pt").write_bytes(b"cut")

    ran = amsam("models", "verify", "--json")

    assert (fine, ran.code) == (0, 1)
    assert [entry["name"] for entry in ran.json["models"] if entry["state"] == "damaged"] == ["sam2.1-tiny"]
