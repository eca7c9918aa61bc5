"""Label transfer by image registration with SimpleITK: what was done before networks, and still needs no training.

Every slice of a scan is registered, affine and then B-spline, to the annotated slices that look most like it; their
labels are carried over and vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from amsam_cli.bench.base import Query
from amsam_cli.bench.slices import Lesson
from amsam_cli.models.base import OnStep
from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot

VERSION = "1"
MOST_VOTES = 3
"""Supports that are registered by B-splines and vote; all are tried affinely."""
MESH = (4, 4)
"""Cells of the B-spline grid along each side of the frame."""


@dataclass(frozen=True, slots=True)
class LabelTransfer:
    """Registration of slices, affine and B-spline, by correlation.

    Attributes:
        name: in tables.
        image_size: frame side S in pixels.
    """

    name: str = "registration"
    image_size: int = 128

    @property
    def version(self) -> str:
        """Of this file."""
        return VERSION

    @property
    def settings(self) -> Mapping[str, Json]:
        """Metric, transforms and vote."""
        return {
            "package": f"SimpleITK {sitk.Version_VersionString()}",
            "metric": "correlation, a quarter of the pixels",
            "affine": "regular step gradient descent, 3 levels, from the centres of gravity, and from none",
            "bspline": f"LBFGSB, {MESH[0]} x {MESH[1]} cells, 30 iterations",
            "votes": f"the {MOST_VOTES} supports of highest correlation after affine, weighed by it",
            "image_size": self.image_size,
        }

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> Atlas:
        """Return the slices as they are: there is nothing to train."""
        lesson = Lesson.of(shots, self.image_size)
        return Atlas(lesson, seed)


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Annotated slices to register to."""

    lesson: Lesson
    seed: int

    def segment(self, query: Query) -> LabelMap:
        """Return the labels that most supports vote for at each voxel of the scan's own grid."""
        return self.lesson.read(query.volume, self._votes)

    def _votes(self, pixels: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(self._vote(frame.mean(dim=0).numpy())) for frame in pixels])

    def _vote(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return class scores (classes, S, S) of one grey frame (S, S)."""
        fixed = sitk.GetImageFromArray(frame)
        greys = self.lesson.pixels.mean(dim=1).numpy()
        affine = [_affine(fixed, sitk.GetImageFromArray(grey), self.seed) for grey in greys]
        best = sorted(range(len(greys)), key=lambda index: affine[index].likeness, reverse=True)[:MOST_VOTES]
        votes = np.zeros((1 + len(self.lesson.names), *frame.shape), dtype=np.float32)
        for index in best:
            found = _deformed(fixed, sitk.GetImageFromArray(greys[index]), affine[index], self.seed)
            classes = _carried(fixed, self.lesson.classes[index, 0].numpy(), found.transform)
            weight = max(found.likeness, 1e-3)
            votes += weight * (classes == np.arange(len(votes), dtype=np.float32)[:, None, None])
        return votes


@dataclass(frozen=True, slots=True, eq=False)
class _Match:
    """A transform from the scan's slice to a support, and the correlation of both after it."""

    transform: sitk.Transform
    likeness: float


def _affine(fixed: sitk.Image, moving: sitk.Image, seed: int) -> _Match:
    """Return the better of two affine matches: started in place, and with the centres of gravity on each other."""
    kind = sitk.AffineTransform(2)
    mode = sitk.CenteredTransformInitializerFilter
    starts = [sitk.CenteredTransformInitializer(fixed, moving, kind, mode.GEOMETRY)]
    if min(float(np.abs(sitk.GetArrayViewFromImage(image)).sum()) for image in (fixed, moving)) > 0:
        starts.append(sitk.CenteredTransformInitializer(fixed, moving, kind, mode.MOMENTS))
    return max((_affine_from(start, fixed, moving, seed) for start in starts), key=lambda match: match.likeness)


def _affine_from(start: sitk.Transform, fixed: sitk.Image, moving: sitk.Image, seed: int) -> _Match:
    method = _method(seed, share=0.25)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0, 0.0])
    method.SetInitialTransform(start, inPlace=False)
    return _run(method, fixed, moving, otherwise=start)


def _deformed(fixed: sitk.Image, moving: sitk.Image, affine: _Match, seed: int) -> _Match:
    method = _method(seed, share=0.5)
    method.SetMovingInitialTransform(affine.transform)
    method.SetInitialTransform(sitk.BSplineTransformInitializer(fixed, MESH, order=3), inPlace=False)
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-4, numberOfIterations=30)
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([1.0])
    found = _run(method, fixed, moving, otherwise=sitk.Transform(2, sitk.sitkIdentity))
    if found.likeness <= affine.likeness:
        return affine
    return _Match(sitk.CompositeTransform([affine.transform, found.transform]), found.likeness)


def _method(seed: int, *, share: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(share, seed + 1)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _run(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, *, otherwise: sitk.Transform
) -> _Match:
    """Return what the method finds; where it fails, as on a black slice, the transform it started from."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # slices that slid off each other are met below
    try:
        found = method.Execute(fixed, moving)
    except RuntimeError:
        return _Match(otherwise, -1.0)
    likeness = -float(method.GetMetricValue())  # ITK minimises the negative squared correlation
    return _Match(found, likeness if np.isfinite(likeness) else -1.0)


def _carried(fixed: sitk.Image, classes: NDArray[np.float32], transform: sitk.Transform) -> NDArray[np.float32]:
    """Return a support's classes on the grid of the scan's slice."""
    moved = sitk.Resample(sitk.GetImageFromArray(classes), fixed, transform, sitk.sitkNearestNeighbor, 0.0)
    result: NDArray[np.float32] = sitk.GetArrayFromImage(moved)
    return result
