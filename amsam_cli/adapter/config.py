"""How to adapt: every axis along which a run, or an ablation, can differ. Knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amsam_cli.methods.bilevel import Order
from amsam_cli.methods.calibration import Combine
from amsam_cli.methods.prompts import Asking

Tune = Literal["lora", "decoder", "encoder", "full"]
Preset = Literal["paper"]


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
        episodes: whether shots, from three on, also teach memory attention how to find one from the others: by LoRA
            there, or where every weight is tuned by asking from memory in half of the steps.
        features: what priors by cosine are read from: the model's "own" features, or "dinov2" as FSSAM has them.
        prompts: whether slices are asked with a box and a click found automatically, with the box only, or with the
            learned prompt alone.
        preset: "paper" learns and segments as AM-SAM is published: a softmax over C + 1 fresh mask tokens, one prompt
            for all labels, one picture a step, as it is, the best epoch on D2 kept; None as does best here.
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
    episodes: bool = False
    features: Literal["own", "dinov2"] = "own"
    prompts: Asking = "automatic"
    preset: Preset | None = None

    @classmethod
    def paper(cls) -> AdapterConfig:
        """Return the settings of the public AM-SAM and BLO-SAM runs (Zhang et al., ICML 2024), for frames of 256 px."""
        return cls(rank=4, learning_rate=5e-3, tune="decoder", side=256, bilevel="first", prompts="box", preset="paper")
