"""amsam: few annotated slices in, an automatic segmenter out."""

from amsam_cli.version import __version__ as __version__
