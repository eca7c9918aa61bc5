from __future__ import annotations

import pytest
from nibabel.nifti1 import Nifti1Extension

from amsam_cli.io import names


def test_names_survive_a_nifti_extension() -> None:
    assert names.from_extensions([names.to_extension({2: "Leber – rechts", 1: "spleen"})]) == {
        1: "spleen",
        2: "Leber – rechts",
    }


@pytest.mark.parametrize(
    "content", [b"any comment", b'{"labels": 1}', b'{"amsam_labels": ["a"]}', b"\xff\xfe"], ids=repr
)
def test_names_ignore_what_others_wrote(content: bytes) -> None:
    assert names.from_extensions([Nifti1Extension("comment", content)]) == {}
