"""Which methods the benchmark knows, by name. Loads no network: a method's own module is imported when it is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from amsam_cli.bench.base import Method
from amsam_cli.errors import InputError

if TYPE_CHECKING:
    from amsam_cli.bench.choosing import Choice
    from amsam_cli.segmentation import Mode

AVAILABLE_METHODS: Mapping[str, str] = {
    "amsam": "amsam as a user gets it: adapted to the shots, then full segmentation",
    "amsam-in-context": "amsam without tuning (--steps 0): prompts and support memories only",
    "amsam-prior": "amsam, --mode prior: the prior cut at its threshold, no decoder",
    "amsam-slice": "amsam, --mode slice: each slice alone, AM-SAM",
    "amsam-fssam": "amsam, --mode fssam: the shots in memory and refined pseudo memories, FSSAM",
    "amsam-track": "amsam, --mode track: one key slice carried by plain SAM 2",
    "amsam-memory": "ablation, untuned: the shots as SAM 2's memory, slice by slice",
    "amsam-memory-ppg": "the same, and each slice's own prior in memory (PPG)",
    "amsam-memory-imr": "the same, and that memory refined (IMR)",
    "amsam-memory-scma": "the same, and attention calibrated (SCMA)",
    "amsam-memory-tracks": "the same, and key slices carried through the scan",
    "amsam-memory-zoom": "the same, and a closer look; amsam-in-context adds prior and slices, and leaves PPG out",
    "amsam-memory-cosine": "amsam-memory-scma with priors by cosine, as FSSAM has them",
    "amsam-memory-dinov2": "the same, read by DINOv2-B from the cache of transformers, as published",
    "amsam-apart": "ablation: as amsam-in-context, labels kept apart inside memory",
    "amsam-nearest": "the same, with only the four nearest shots in memory of each slice; for more than four shots",
    "amsam-careless": "the same, without the stop rule: doubtful masks enter memory, labels are followed to the end",
    "amsam-lora": "ablation: LoRA in the decoder and learned prompts alone",
    "amsam-lora-low": "the same at a third of its learning rate",
    "amsam-lora-high": "the same at three times its learning rate",
    "amsam-calibration": "ablation: LoRA and calibration",
    "amsam-prompts": "ablation: LoRA, calibration, automatic prompts",
    "amsam-episodes": "ablation: all of these, and LoRA in memory attention, taught by finding shots from the others",
    "amsam-bilevel": "ablation: as amsam-prompts, on two levels of first order",
    "amsam-unrolled": "ablation: as amsam-prompts, on two levels, unrolled",
    "amsam-true-box": "ablation: as amsam-prompts, but a person draws the true box on every slice",
    "amsam-paper": "the published AM-SAM settings (--preset paper), on this model",
    "amsam-chosen": "amsam on the slices that --shots would choose from the draw's scans",
    "amsam-suggested": "amsam on half of the draw's slices and as many that amsam suggest names after them",
    "amsam-decoder": "ablation: the whole decoder tuned",
    "amsam-encoder": "ablation: the decoder, and LoRA in the encoder",
    "amsam-full": "ablation: every weight tuned",
    "amsam-full-no-prompts": "ablation: every weight tuned, asked by the learned prompt alone",
    "amsam-full-bilevel": "ablation: every weight tuned, on two levels of first order",
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
_MODES: tuple[Mode, ...] = ("prior", "slice", "fssam", "track")
"""Ways to segment with the adapter a user gets; `full` is amsam itself."""

_LORA: Mapping[str, Any] = {"tune": "lora", "bilevel": "off", "calibration": "off", "prompts": "none"}
_CALIBRATED = {**_LORA, "calibration": "sum"}
_PROMPTED = {**_CALIBRATED, "prompts": "automatic"}
_FULL: Mapping[str, Any] = {"tune": "full", "bilevel": "off"}
_MEMORY: Mapping[str, bool] = {"prior": False, "slices": False, "tracks": False, "zooms": False}
# What differs from the `Plan` of the mode, untuned; the first six add one part each to the one before.
_AXES: Mapping[str, Mapping[str, bool | int]] = {
    "amsam-memory": _MEMORY,
    "amsam-memory-ppg": (_ppg := {**_MEMORY, "pseudo": True}),
    "amsam-memory-imr": (_imr := {**_ppg, "refines": True}),
    "amsam-memory-scma": (_scma := {**_imr, "calibrates": True}),
    "amsam-memory-tracks": (_tracks := {**_scma, "tracks": True}),
    "amsam-memory-zoom": {**_tracks, "zooms": True},
    "amsam-memory-cosine": _scma,
    "amsam-memory-dinov2": _scma,
    "amsam-apart": {"excludes": True},
    "amsam-nearest": {"nearest_supports": 4},
    "amsam-careless": {"is_careful": False},
}
# What differs from the configuration a user gets.
_OURS: Mapping[str, Mapping[str, Any]] = {
    "amsam": {"forecast": True},  # as users get it: tuning that does not help on held-out shots is undone
    "amsam-in-context": {"steps": 0},
    **{f"amsam-{mode}": {} for mode in _MODES},
    **{name: {"steps": 0} for name in _AXES},
    "amsam-memory-cosine": {"steps": 0, "prior": "cosine"},
    "amsam-memory-dinov2": {"steps": 0, "prior": "cosine", "features": "dinov2"},
    "amsam-lora": _LORA,
    "amsam-lora-low": {**_LORA, "learning_rate": 1e-3},
    "amsam-lora-high": {**_LORA, "learning_rate": 1e-2},
    "amsam-calibration": _CALIBRATED,
    "amsam-prompts": _PROMPTED,
    "amsam-episodes": {**_PROMPTED, "episodes": True},
    "amsam-bilevel": {**_PROMPTED, "bilevel": "first"},
    "amsam-unrolled": {**_PROMPTED, "bilevel": "unrolled"},
    "amsam-true-box": _PROMPTED,
    "amsam-paper": {},
    "amsam-chosen": {},
    "amsam-suggested": {},
    "amsam-decoder": {**_PROMPTED, "tune": "decoder"},
    "amsam-encoder": {**_PROMPTED, "tune": "encoder"},
    "amsam-full": _FULL,
    "amsam-full-no-prompts": {**_FULL, "prompts": "none"},
    "amsam-full-bilevel": {**_FULL, "bilevel": "first"},
}
_CHOICES: Mapping[str, Choice] = {"amsam-chosen": "medoids", "amsam-suggested": "suggested"}
_ON_CPU = ("registration", "forest")
_ON_OUR_MODELS = ("persam", "sam2-box")


def load_method(name: str, device: str = "cpu", *, model: str | None = None) -> Method:
    """Return a method by name.

    Args:
        name: one of `AVAILABLE_METHODS`; amsam's own may be followed by "@" and a number of steps.
        device: where it runs, if it can choose.
        model: what it is built on, as `amsam adapt --model` takes it, if it is built on one of amsam's models.

    Raises:
        InputError: there is none of that name, no such device, or its package is not installed.
        WeightsError: the weights it needs are missing.
    """
    arm, at, steps = name.partition("@")
    if at and not (arm in _OURS and steps.isdigit()):
        raise InputError(f"'{name}' is no arm of amsam at a number of steps.", "Write, for example, amsam-prompts@15.")
    if arm not in AVAILABLE_METHODS:
        raise InputError(
            f"There is no method '{name}' in the benchmark.", f"Choose from {', '.join(AVAILABLE_METHODS)}."
        )
    if arm in _OURS:
        from amsam_cli.adapter import AdapterConfig
        from amsam_cli.bench.ours import Amsam

        mode: Mode = next((mode for mode in _MODES if arm == f"amsam-{mode}"), "full")
        base = AdapterConfig.paper() if arm == "amsam-paper" else AdapterConfig()
        axes = {"forecast": False, **_OURS[arm], **({"steps": int(steps)} if at else {})}
        return Amsam(
            name,
            model=model or "builtin",
            config=replace(base, **axes),
            mode=mode,
            axes=_AXES.get(arm, {}),
            is_shown_boxes=arm == "amsam-true-box",
            choice=_CHOICES.get(arm, "drawn"),
            device=device,
        )
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
