"""Label names inside image headers, as one small JSON text.

NIfTI carries it in a comment extension, NRRD and MHA under a key of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from nibabel.nifti1 import Nifti1Extension

KEY = "amsam_labels"
_COMMENT = 6  # extension code that the NIfTI standard gives to plain text


def to_text(names: Mapping[int, str]) -> str:
    """Return names as text for a header.

    >>> to_text({2: "liver", 1: "spleen"})
    '{"amsam_labels": {"1": "spleen", "2": "liver"}}'
    """
    return json.dumps({KEY: {str(value): names[value] for value in sorted(names)}}, ensure_ascii=False)


def from_text(text: str) -> dict[int, str]:
    """Return the names in a text of ours; of any other text none.

    >>> from_text('{"amsam_labels": {"1": "spleen"}}'), from_text("made by a scanner")
    ({1: 'spleen'}, {})
    """
    try:
        entries = json.loads(text)[KEY]
        return {int(value): str(name) for value, name in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def to_extension(names: Mapping[int, str]) -> Nifti1Extension:
    """Return the NIfTI header extension that holds names."""
    return Nifti1Extension(_COMMENT, to_text(names).encode())


def from_extensions(extensions: Iterable[Nifti1Extension]) -> dict[int, str]:
    """Return the names in the extensions of a NIfTI header, those of other programs passed over."""
    names: dict[int, str] = {}
    for extension in extensions:
        if extension.get_code() == _COMMENT:
            content = extension.get_content()
            text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
            names.update(from_text(text.rstrip("\0")))
    return names
