"""Which region of interest is which structure of the protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_vmat.dicom.structure_set import Roi
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.masks import BODY
from monai_vmat.protocol import Protocol

_MAP = 'Say which with --mapping, a JSON file like {"ROI name": "structure", "other ROI": null}'


@dataclass(frozen=True)
class NameMatch:
    """What the names of a structure set mean.

    Args:
        found: the region of each structure.
        ambiguous: names of the regions that may be a structure, where they are several.
        undrawn: regions that match a structure but have no contours.
        unmatched: names that mean nothing to the protocol.
    """

    found: Mapping[str, Roi]
    ambiguous: Mapping[str, tuple[str, ...]]
    undrawn: Mapping[str, str]
    unmatched: tuple[str, ...]

    def require_complete(self, protocol: Protocol, where: str) -> None:
        """Check that a case can be made.

        Raises:
            InputError: naming ambiguous names, or required structures that are absent or not drawn.
        """
        for structure, names in self.ambiguous.items():
            raise InputError(where, f"structure '{structure}' is ambiguous: {', '.join(map(repr, names))}", _MAP)
        missing = [s for s in required_structures(protocol) if s not in self.found]
        for structure in missing:
            if structure in self.undrawn:
                problem = f"required structure '{structure}': ROI '{self.undrawn[structure]}' has no contours"
                raise InputError(where, problem, "Draw it and export again")
        if missing:
            there = ", ".join(map(repr, self.unmatched)) or "none"
            raise InputError(
                where, f"required structures are absent: {', '.join(missing)}; names without a match: {there}", _MAP
            )


def required_structures(protocol: Protocol) -> list[str]:
    """Structures without which there is no case of the protocol."""
    required = [s.name for s in protocol.structures if s.required]
    return required if protocol.dose_region is None else [*required, protocol.dose_region]


def read_mapping(path: str | Path, protocol: Protocol) -> dict[str, str | None]:
    """The user's own names: a JSON object of structure names (null: not to be used) by ROI name.

    Raises:
        InputError: when it is anything else, or names a structure that the protocol does not have.
    """
    mapping = read_json(path)
    known = _possible_structures(protocol)
    if not isinstance(mapping, dict):
        raise InputError(path, 'an object was expected, like {"ROI name": "structure"}', "Correct it")
    for name, structure in mapping.items():
        if structure is not None and structure not in known:
            problem = f"'{name}': {structure!r} is no structure of protocol {protocol.name}"
            raise InputError(path, problem, f"Use null or one of {', '.join(known)}")
    return mapping


def match_names(rois: Sequence[Roi], protocol: Protocol, mapping: Mapping[str, str | None] | None = None) -> NameMatch:
    """Match regions to structures: first by the user's mapping, then by the protocol's names and aliases.

    A name matches as a whole, upper and lower case alike, with or without the spaces, underscores and hyphens between its
    parts. Where the mapping gives a structure its region, aliases are not asked for it. A region without contours matches only
    when no other does. ``Body`` is the region marked as EXTERNAL.
    """
    mapping = mapping or {}
    candidates: dict[str, list[Roi]] = {}
    for roi in rois:
        if mapping.get(roi.name) is not None:
            candidates.setdefault(str(mapping[roi.name]), []).append(roi)
    mapped = set(candidates)
    for roi in rois:
        if roi.name not in mapping:
            for structure in _structures_called(roi, protocol):
                if structure not in mapped:
                    candidates.setdefault(structure, []).append(roi)
    found: dict[str, Roi] = {}
    ambiguous, undrawn = {}, {}
    for structure in _possible_structures(protocol):
        drawn = [roi for roi in candidates.get(structure, ()) if roi.contours]
        if len(drawn) == 1:
            found[structure] = drawn[0]
        elif drawn:
            ambiguous[structure] = tuple(roi.name for roi in drawn)
        elif structure in candidates:
            undrawn[structure] = candidates[structure][0].name
    by_region: dict[int, list[str]] = {}
    for structure, roi in found.items():
        by_region.setdefault(roi.number, []).append(structure)
    for structures in by_region.values():
        if len(structures) > 1:  # one region cannot be two structures
            ambiguous[" or ".join(structures)] = (found[structures[0]].name,)
    meant = {roi.number for several in candidates.values() for roi in several}
    return NameMatch(found, ambiguous, undrawn, tuple(roi.name for roi in rois if roi.number not in meant))


def _possible_structures(protocol: Protocol) -> tuple[str, ...]:
    return (*protocol.structure_names, *([protocol.dose_region] if protocol.dose_region else []), BODY)


def _structures_called(roi: Roi, protocol: Protocol) -> list[str]:
    aliases = {s.name: s.aliases for s in protocol.structures}
    if protocol.dose_region:
        aliases[protocol.dose_region] = ()
    written, joined = roi.name.strip(), _joined(roi.name)
    called = [
        structure
        for structure, patterns in aliases.items()
        if joined.lower() == _joined(structure).lower()
        or any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in patterns for name in (written, joined))
    ]
    return [*called, BODY] if roi.external else called


def _joined(name: str) -> str:
    """A name without the separators between its parts. Those before and after it stay: they mark auxiliary structures."""
    return re.sub(r"(?<=[^ _-])[ _-]+(?=[^ _-])", "", name.strip())
