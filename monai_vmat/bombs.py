"""Small files that inflate to what no memory holds."""

from __future__ import annotations

from pathlib import Path

from monai_vmat.errors import InputError

# Zeros shrink to a thousandth; the emptiest of 340 OpenKBP patients to 1/209. What inflates to no more than this is no harm.
_MOST_TIMES = 500
_HARMLESS_BYTES = 16 * 1024**2


def require_plausible(path: str | Path, content_bytes: int) -> None:
    """Check what a compressed file says that it holds, before any of it is inflated.

    Raises:
        InputError: when it claims more than 16 MiB and more than 500 times the file's own size.
    """
    size = Path(path).stat().st_size
    if content_bytes > max(_HARMLESS_BYTES, _MOST_TIMES * size):
        problem = f"claims to hold {content_bytes} bytes in {size}: an archive bomb, or damaged"
        raise InputError(path, problem, "Make it again from its source, or leave it out")
