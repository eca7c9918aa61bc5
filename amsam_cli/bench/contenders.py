"""Which methods the benchmark knows, by name. Loads no network: a method's own module is imported when it is named."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from amsam_cli.bench.base import Method
from amsam_cli.errors import InputError

AVAILABLE_METHODS: Mapping[str, str] = {
    "amsam": "amsam as a user gets it: adapted to the shots, then full segmentation",
    "amsam-in-context": "amsam without tuning (--steps 0): prompts and support memories only",
    "nnunet": "nnU-Net v2 from its own package, 2D, fold all, on the same annotated slices",
    "unet": "a residual MONAI U-Net trained from scratch on the shots, frames of 256 px",
    "unet-128": "the same U-Net on frames of 128 px",
    "registration": "labels carried over by SimpleITK, affine and B-spline, from the most similar shots",
    "forest": "a random forest that classifies pixels by features at several scales",
    "persam": "clicks from similarity to the shots, as in PerSAM without training, on amsam's model",
    "sam2-box": "a person: the true box on one slice, carried through the scan by plain SAM 2",
}
"""Name -> one line about it, in the order in which tables show them."""

_PLACES: Mapping[str, tuple[str, str]] = {
    "nnunet": ("nnunet", "NnUNet"),
    "unet": ("unet", "ScratchUNet"),
    "unet-128": ("unet", "ScratchUNet"),
    "registration": ("registration", "LabelTransfer"),
    "forest": ("forest", "PixelForest"),
    "persam": ("persam", "PrototypePrompts"),
    "sam2-box": ("human", "BoxOnOneSlice"),
}
_ON_CPU = ("registration", "forest")
_ON_OUR_MODELS = ("persam", "sam2-box")


def load_method(name: str, device: str = "cpu", *, model: str | None = None) -> Method:
    """Return a method by name.

    Args:
        name: one of `AVAILABLE_METHODS`.
        device: where it runs, if it can choose.
        model: what it is built on, as `amsam adapt --model` takes it, if it is built on one of amsam's models.

    Raises:
        InputError: there is none of that name, no such device, or its package is not installed.
        WeightsError: the weights it needs are missing.
    """
    if name not in AVAILABLE_METHODS:
        raise InputError(
            f"There is no method '{name}' in the benchmark.", f"Choose from {', '.join(AVAILABLE_METHODS)}."
        )
    if name not in _PLACES:
        from amsam_cli.bench.ours import Amsam

        return Amsam(name, model or "builtin", steps=0 if name == "amsam-in-context" else None, device=device)
    module, class_name = _PLACES[name]
    options: dict[str, Any] = {} if name in _ON_CPU else {"device": device}
    if model and name in _ON_OUR_MODELS:
        options["model"] = model
    if name == "unet-128":
        options["image_size"] = 128
    try:
        kind = getattr(import_module(f"amsam_cli.bench.{module}"), class_name)
    except ModuleNotFoundError as err:
        raise InputError(f"Method '{name}' needs the package {err.name}.", "pip install 'amsam[bench]'") from err
    method: Method = kind(name, **options)
    return method
