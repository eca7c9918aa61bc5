"""Which methods the benchmark knows, by name. Loads no network: a method's own module is imported when it is named."""

from __future__ import annotations

from collections.abc import Mapping

from amsam_cli.bench.base import Method
from amsam_cli.errors import InputError

AVAILABLE_METHODS: Mapping[str, str] = {
    "amsam": "amsam as a user gets it: adapted to the shots, then full segmentation",
    "amsam-in-context": "amsam without tuning (--steps 0): prompts and support memories only",
    "unet": "a residual MONAI U-Net trained from scratch on the shots, frames of 256 px",
    "unet-128": "the same U-Net on frames of 128 px",
}
"""Name -> one line about it, in the order in which tables show them."""


def load_method(name: str, device: str = "cpu") -> Method:
    """Return a method by name.

    Raises:
        InputError: there is none of that name, or no such device.
        WeightsError: the weights it needs are missing.
    """
    if name not in AVAILABLE_METHODS:
        raise InputError(
            f"There is no method '{name}' in the benchmark.", f"Choose from {', '.join(AVAILABLE_METHODS)}."
        )
    if name.startswith("unet"):
        from amsam_cli.bench.unet import ScratchUNet

        return ScratchUNet(name, image_size=128 if name == "unet-128" else 256, device=device)
    from amsam_cli.bench.ours import Amsam

    return Amsam(name, steps=0 if name == "amsam-in-context" else None, device=device)
