"""The models amsam can name: where each is published, under which licence, with which hash.

Owns the table; downloads and reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amsam_cli.errors import InputError, WeightsError

Family = Literal["sam1", "sam2", "builtin"]

SAM = "https://dl.fbaipublicfiles.com/segment_anything"
SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"


@dataclass(frozen=True)
class Checkpoint:
    """One published set of weights.

    Attributes:
        name: what the user types.
        family: which wrapper drives it.
        architecture: which network of the family it fills.
        url: where it is published; "" for the weights inside the package.
        sha256: the published hash; None where none is published, then the first one seen is recorded and kept.
        licence: SPDX identifier of the weights.
        size_mib: size of the download.
        image_size: frame side in pixels amsam uses it at unless told otherwise.
        note: one sentence for `amsam models list`.
    """

    name: str
    family: Family
    architecture: str
    url: str
    sha256: str | None
    licence: str
    size_mib: int
    image_size: int
    note: str

    @property
    def file_name(self) -> str:
        """The name of its file, in the cache as at its source."""
        return self.url.rpartition("/")[2] or f"{self.name}.safetensors"


# Hashes: as the Hugging Face Hub lists them for SAM 2.1 (tiny and small by Meta, the others by several mirrors alike),
# as mirrors and other registries give them alike for SAM and MedSAM; the digits in SAM's file names begin the MD5.
# The authors of MedSAM2 publish none.
# Sides: SAM at 256 px, as in the public runs of BLO-SAM and AM-SAM; SAM 2.1 at half its own, about four times faster.
_TABLE = (
    Checkpoint(
        name="builtin",
        family="builtin",
        architecture="builtin",
        url="",
        sha256=None,
        licence="Apache-2.0",
        size_mib=17,
        image_size=256,
        note="Small SAM 2 pretrained on synthetic anatomy; part of the package, never downloaded.",
    ),
    Checkpoint(
        name="sam2.1-tiny",
        family="sam2",
        architecture="sam2.1-tiny",
        url=f"{SAM2}/sam2.1_hiera_tiny.pt",
        sha256="7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        licence="Apache-2.0",
        size_mib=149,
        image_size=512,
        note="SAM 2.1 with the Hiera-T encoder, 39 M parameters.",
    ),
    Checkpoint(
        name="sam2.1-small",
        family="sam2",
        architecture="sam2.1-small",
        url=f"{SAM2}/sam2.1_hiera_small.pt",
        sha256="6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        licence="Apache-2.0",
        size_mib=176,
        image_size=512,
        note="SAM 2.1 with the Hiera-S encoder, 46 M parameters.",
    ),
    Checkpoint(
        name="sam2.1-base-plus",
        family="sam2",
        architecture="sam2.1-base-plus",
        url=f"{SAM2}/sam2.1_hiera_base_plus.pt",
        sha256="a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        licence="Apache-2.0",
        size_mib=309,
        image_size=512,
        note="SAM 2.1 with the Hiera-B+ encoder, 81 M parameters.",
    ),
    Checkpoint(
        name="sam2.1-large",
        family="sam2",
        architecture="sam2.1-large",
        url=f"{SAM2}/sam2.1_hiera_large.pt",
        sha256="2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        licence="Apache-2.0",
        size_mib=856,
        image_size=512,
        note="SAM 2.1 with the Hiera-L encoder, 224 M parameters.",
    ),
    Checkpoint(
        name="medsam2",
        family="sam2",
        architecture="sam2.1-tiny",
        url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
        sha256=None,
        licence="CC-BY-SA-4.0",
        size_mib=149,
        image_size=512,
        note="SAM 2.1 tiny fine-tuned on medical volumes and videos at 512 px (Ma et al., 2025).",
    ),
    Checkpoint(
        name="sam-vit-b",
        family="sam1",
        architecture="vit-b",
        url=f"{SAM}/sam_vit_b_01ec64.pth",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        licence="Apache-2.0",
        size_mib=358,
        image_size=256,
        note="Segment Anything with the ViT-B encoder, 94 M parameters.",
    ),
    Checkpoint(
        name="sam-vit-l",
        family="sam1",
        architecture="vit-l",
        url=f"{SAM}/sam_vit_l_0b3195.pth",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        licence="Apache-2.0",
        size_mib=1192,
        image_size=256,
        note="Segment Anything with the ViT-L encoder, 312 M parameters.",
    ),
    Checkpoint(
        name="sam-vit-h",
        family="sam1",
        architecture="vit-h",
        url=f"{SAM}/sam_vit_h_4b8939.pth",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        licence="Apache-2.0",
        size_mib=2446,
        image_size=256,
        note="Segment Anything with the ViT-H encoder, 641 M parameters.",
    ),
    Checkpoint(
        name="medsam",
        family="sam1",
        architecture="vit-b",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        licence="Apache-2.0",
        size_mib=358,
        image_size=256,
        note="SAM ViT-B fine-tuned on 1.5 million medical image-mask pairs with box prompts (Ma et al., 2024).",
    ),
)

CHECKPOINTS: Mapping[str, Checkpoint] = {checkpoint.name: checkpoint for checkpoint in _TABLE}


def find_checkpoint(name: str) -> Checkpoint:
    """Return the registered checkpoint called `name`.

    Raises:
        InputError: no model has that name.
    """
    try:
        return CHECKPOINTS[name]
    except KeyError:
        raise InputError(
            f"There is no model called '{name}'; known are {', '.join(CHECKPOINTS)}.",
            "amsam models list shows them; NAME=checkpoint.pt takes the weights of a known model from a file.",
        ) from None


def parse_model(spec: str) -> tuple[str, Path | None]:
    """Split "NAME" or "NAME=checkpoint.pt" into the model's name and the file at hand, if any.

    Raises:
        InputError: no model has that name, or nothing follows the "=".
        WeightsError: there is no such file.

    >>> parse_model("sam2.1-tiny")
    ('sam2.1-tiny', None)
    """
    name, equals, file = spec.partition("=")
    find_checkpoint(name)
    if not equals:
        return name, None
    if not file:
        raise InputError(f"'{spec}' names no file after '='.", f"write {name}=checkpoint.pt, or just {name}.")
    path = Path(file).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"Checkpoint '{path}' of --model {spec} is not a file.",
            f"check the path, or use --model {name} for the published weights.",
        )
    return name, path
