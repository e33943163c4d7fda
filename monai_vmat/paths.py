"""Where the bundle and the project's outputs are, from whichever of the two folders a command is started in."""

from __future__ import annotations

from pathlib import Path

from monai_vmat.errors import InputError

_BUNDLE_IN_PROJECT = Path("bundles", "dose")


def find_bundle() -> str:
    """The bundle's folder: the current one, or ``bundles/dose`` below it.

    Raises:
        InputError: when neither holds a bundle.
    """
    for folder in (Path("."), _BUNDLE_IN_PROJECT):
        if (folder / "configs" / "metadata.json").is_file():
            return str(folder.resolve())
    raise InputError(
        Path.cwd(),
        "holds no bundle",
        "Start in the project's root or in bundles/dose, or name the bundle with --bundle_root DIR",
    )


def project_root(bundle_root: str) -> str:
    """The folder for ``data``, ``runs`` and ``predictions``: the project's root, or the bundle itself where it stands alone."""
    bundle = Path(bundle_root).resolve()
    return str(bundle.parents[1] if bundle.parts[-2:] == _BUNDLE_IN_PROJECT.parts else bundle)
