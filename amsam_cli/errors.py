"""The exceptions amsam raises on purpose, each a sentence for the user and a hint what to do next.

    AmsamError
    ├── InputError         a file, folder or argument that cannot be used
    │   └── GeometryError  grids that do not agree, axes that cannot be trusted
    ├── AdapterError       an adapter folder that is missing, foreign or damaged
    ├── WeightsError       a checkpoint that is missing, damaged or of another architecture
    └── ResourceError      memory, disk or device ran out

`cli.main` alone turns them into two lines on stderr and an exit code; below it they are only raised.
"""


class AmsamError(Exception):
    """A failure amsam foresaw.

    Args:
        message: what, which value, where; and what was expected.
        hint: the next command or step for the user.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(AmsamError):
    """A file, folder or argument that cannot be used."""


class GeometryError(InputError):
    """Grids that do not agree, or axes that cannot be trusted."""


class AdapterError(AmsamError):
    """An adapter folder that is missing, foreign or damaged."""


class WeightsError(AmsamError):
    """A checkpoint that is missing, damaged or of another architecture."""


class ResourceError(AmsamError):
    """Memory, disk or device ran out."""
