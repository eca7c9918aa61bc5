"""What a label is called in DICOM: a SNOMED code where a labels.json gives one, else its plain name as a local code.

{"liver": "SCT:10200004", "lesion": {"code": "52988006", "scheme": "SCT", "meaning": "Lesion",
 "category": "SCT:49755003:Morphologically abnormal structure", "colour": [221, 130, 101]}}
"""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amsam_cli.errors import InputError

LOCAL = "99AMSAM"
"""Scheme of codes that are no standard's; DICOM reserves 99 for such."""

_EXAMPLE = 'Write {"liver": "SCT:10200004"}, or {"liver": {"code": "10200004", "scheme": "SCT", "meaning": "Liver"}}.'


@dataclass(frozen=True)
class Code:
    """A concept of a coding scheme.

    Attributes:
        value: such as "10200004"; up to 16 characters.
        scheme: such as "SCT", SNOMED CT.
        meaning: in words.
    """

    value: str
    scheme: str
    meaning: str

    @classmethod
    def local(cls, name: str) -> Code:
        """Return a code of our own for a plain name, the same for the same name.

        >>> Code.local("left kidney").value, len(Code.local("a very long name of a structure").value) <= 16
        ('left kidney', True)
        """
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        fits = len(name) <= 16 and name.isascii() and "\\" not in name
        return cls(name if fits else f"label-{digest}", LOCAL, name[:64])


@dataclass(frozen=True)
class LabelCode:
    """What a label is: its kind of thing, the thing, and its colour.

    Attributes:
        category: such as anatomical structure.
        type: such as liver.
        colour: RGB, 0 to 255.
    """

    category: Code
    type: Code
    colour: tuple[int, int, int]


_ANATOMY = Code("123037004", "SCT", "Anatomical Structure")


def default_code(name: str) -> LabelCode:
    """Return the code of a label of which only the name is known."""
    return LabelCode(_ANATOMY, Code.local(name), colour_of(name))


def colour_of(name: str) -> tuple[int, int, int]:
    """Return a colour for a name, the same every time.

    >>> colour_of("liver") == colour_of("liver") != colour_of("spleen")
    True
    """
    hue = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.65, 0.9))
    return red, green, blue


def read_codes(path: Path) -> dict[str, LabelCode]:
    """Return label name -> code from a labels.json.

    Raises:
        InputError: no such file, no JSON, or an entry that says no code.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content:
            raise ValueError("it holds no label names")
        return {str(name): _label_code(str(name), entry) for name, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(f"Label codes '{path}' cannot be used: {err}.", _EXAMPLE) from err


def _label_code(name: str, entry: Any) -> LabelCode:
    if isinstance(entry, str):
        return LabelCode(_ANATOMY, _code(entry, name), colour_of(name))
    if not isinstance(entry, Mapping):
        raise ValueError(f"'{name}' is neither text nor an object")
    category = _code(entry["category"], "category") if "category" in entry else _ANATOMY
    colour = entry.get("colour", entry.get("color", colour_of(name)))
    red, green, blue = (int(part) for part in colour)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"the colour of '{name}' is {list(colour)}, expected three numbers from 0 to 255")
    return LabelCode(category, _code(entry, name), (red, green, blue))


def _code(entry: Any, name: str) -> Code:
    """Return a code from "SCT:10200004", "SCT:10200004:Liver", plain text, or an object with code and scheme."""
    if isinstance(entry, str):
        scheme, colon, rest = entry.partition(":")
        if not colon:
            return Code.local(entry)
        value, _, meaning = rest.partition(":")
    elif "code" in entry:
        scheme, value = str(entry.get("scheme", "SCT")), str(entry["code"])
        meaning = str(entry.get("meaning", ""))
    else:
        return Code.local(str(entry.get("meaning", name)))
    if not (0 < len(value) <= 16 and 0 < len(scheme) <= 16):
        raise ValueError(f"'{name}' has code '{value}' of scheme '{scheme}', expected 1 to 16 characters each")
    return Code(value, scheme, (meaning or name)[:64])
