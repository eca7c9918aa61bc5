"""How to adapt: every axis along which a run, or an ablation, can differ. Knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amsam_cli.methods.bilevel import Order
from amsam_cli.methods.calibration import Combine

Tune = Literal["lora", "decoder", "encoder", "full"]


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How to adapt.

    Attributes:
        rank: LoRA rank; alpha equals it, so the update has no further scale.
        steps: optimiser steps; None decides by what is tuned, 0 trains nothing.
        learning_rate: of the lower level; None decides by what is tuned.
        seed: of augmentation, sampling and initial weights.
        forecast: whether to refit without each held-out patient to forecast the Dice on new ones.
        tune: "lora" in the decoder's attention (AM-SAM); "decoder": the rest of the decoder too (BLO-SAM);
            "encoder": LoRA in the encoder's layers as well; "full": every weight; None takes what did best.
        side: of frames in pixels, for models whose weights fit every side; None decides by what is tuned.
        bilevel: whether prompts learn from other shots than weights do, and by which gradient.
        calibration: how the element-wise branch joins the mask; "off" leaves it out.
        prior: what tells where a label may be: a linear "probe" of all features, or "cosine" to mean features (FSSAM).
        prompts: whether slices are asked with a box and a click found automatically, or with the learned prompt alone.
    """

    rank: int = 4
    steps: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    forecast: bool = True
    tune: Tune | None = None
    side: int | None = None
    bilevel: Order | None = None
    calibration: Combine | Literal["off"] = "sum"
    prior: Literal["probe", "cosine"] = "probe"
    prompts: Literal["automatic", "none"] = "automatic"
