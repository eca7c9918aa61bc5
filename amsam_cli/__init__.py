"""amsam: few annotated slices in, an automatic segmenter for medical volumes and body images out.

The names below are imported when first used (PEP 562), so that `import amsam_cli` and `amsam --help` load no torch.

    shots = [candidate.read() for candidate in choose(find_shots(Path("labels")), 4)]
    adapter = adapt(shots)
    scan = read_volume(Path("scan.nii.gz"), adapter.recipe.plane)
    write_labels(segment(scan, adapter).labels, Path("mask.nii.gz"), like=scan.source)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from amsam_cli.version import __version__

if TYPE_CHECKING:
    from amsam_cli.adaptation import adapt, choose
    from amsam_cli.adapter import Adapter, AdapterConfig
    from amsam_cli.errors import AdapterError, AmsamError, GeometryError, InputError, ResourceError, WeightsError
    from amsam_cli.evaluation import compare, evaluate
    from amsam_cli.io import find_cases, find_shots, read_labels, read_slice_list, read_volume, write_labels
    from amsam_cli.models import load as load_model
    from amsam_cli.review import write_preview
    from amsam_cli.segmentation import Segmentation, segment
    from amsam_cli.suggest import suggest_slices
    from amsam_cli.volume import Geometry, LabelMap, Shot, Volume

_HOMES = {
    "adaptation": ("adapt", "choose"),
    "adapter": ("Adapter", "AdapterConfig"),
    "errors": ("AdapterError", "AmsamError", "GeometryError", "InputError", "ResourceError", "WeightsError"),
    "evaluation": ("compare", "evaluate"),
    "io": ("find_cases", "find_shots", "read_labels", "read_slice_list", "read_volume", "write_labels"),
    "review": ("write_preview",),
    "segmentation": ("Segmentation", "segment"),
    "suggest": ("suggest_slices",),
    "volume": ("Geometry", "LabelMap", "Shot", "Volume"),
}
_HOME_OF = {name: (module, name) for module, names in _HOMES.items() for name in names}
_HOME_OF["load_model"] = ("models", "load")

__all__ = [
    "Adapter",
    "AdapterConfig",
    "AdapterError",
    "AmsamError",
    "Geometry",
    "GeometryError",
    "InputError",
    "LabelMap",
    "ResourceError",
    "Segmentation",
    "Shot",
    "Volume",
    "WeightsError",
    "__version__",
    "adapt",
    "choose",
    "compare",
    "evaluate",
    "find_cases",
    "find_shots",
    "load_model",
    "read_labels",
    "read_slice_list",
    "read_volume",
    "segment",
    "suggest_slices",
    "write_labels",
    "write_preview",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME_OF[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
