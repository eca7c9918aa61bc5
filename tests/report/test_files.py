import json

import numpy as np
import pytest

from amsam_cli.errors import InputError
from amsam_cli.report import json_text, read_json, write_json


def test_json_never_holds_a_nan_token():
    value = {"a": float("nan"), "b": [float("inf"), np.float32("nan")], "c": (np.int64(3), np.array([1.0, np.nan]))}

    assert json.loads(json_text(value)) == {"a": None, "b": [None, None], "c": [3, [1.0, None]]}


def test_json_file_comes_back(tmp_path):
    write_json({"name": "Größe", "values": [1, 2.5, None, True]}, tmp_path / "new" / "a.json")

    assert read_json(tmp_path / "new" / "a.json") == {"name": "Größe", "values": [1, 2.5, None, True]}


def test_json_file_leaves_nothing_beside_it(tmp_path):
    write_json({}, tmp_path / "a.json")

    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]"], ids=["empty", "cut short", "a list"])
def test_json_file_is_refused_by_name_when_it_is_no_object(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)

    with pytest.raises(InputError, match=r"broken\.json"):
        read_json(path)


def test_json_file_is_refused_by_name_when_it_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json"):
        read_json(tmp_path / "gone.json")
