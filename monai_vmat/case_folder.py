"""The cases of a folder or a datalist, and the protocol that they belong to: what command lines over many cases start with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_vmat.case import read_metadata
from monai_vmat.datalist import SECTIONS, load_datalist, natural_order, read_datalist
from monai_vmat.errors import InputError
from monai_vmat.protocol import Protocol, load_protocol


def open_cases(
    source: Path, protocol_name: str | None = None, section: str | None = None
) -> tuple[list[dict[str, Any]], Protocol]:
    """The cases and their protocol.

    Args:
        source: a folder of ``.npz`` cases (predictions, ``*_pred.npz``, are passed over) or a ``datalist.json``.
        protocol_name: name or JSON file; what the datalist or the cases say by default.
        section: only these of the datalist (the file itself, or the one in the folder).

    Returns:
        items as a datalist has them, those of a plain folder with ``case`` (the path) only; the protocol.

    Raises:
        InputError: when there are none, or nothing says which protocol they belong to.
    """
    if source.is_dir() and section is None:
        paths = [path for path in source.glob("*.npz") if not path.name.endswith("_pred.npz")]
        paths.sort(key=lambda path: natural_order(path.stem))
        items: list[dict[str, Any]] = [{"case": str(path)} for path in paths]
        name = protocol_name or next(filter(None, map(_stated_protocol, paths)), None)
    else:
        content = load_datalist(source)
        items = read_datalist(source, section) if section else [item for s in SECTIONS for item in content[s]]
        name = protocol_name or content["protocol"]
    if not items:
        raise InputError(source, "holds no cases", "Convert some first, e.g. with data_scripts/openkbp_to_npz.py")
    if name is None:
        raise InputError("--protocol", f"no case in {source} says which one it belongs to", "Say which, e.g. prostate_sib")
    return items, load_protocol(name)


def _stated_protocol(path: Path) -> str | None:
    """The protocol that a native file names; none for v2.x and unreadable files."""
    try:
        return read_metadata(path).get("protocol")
    except InputError:
        return None
