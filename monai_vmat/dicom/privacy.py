"""What may be shown: file names without the identifiers that exports put into them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MASK = "***"
_UID = re.compile(r"\d+(\.\d+){4,}")


@dataclass(frozen=True)
class PathNames:
    """Names paths for messages: relative to ``root`` and, if ``hide``, without UIDs and any of the words ``secrets``."""

    root: Path = Path()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    hide: bool = True

    def __call__(self, path: Path) -> str:
        try:
            shown = path.relative_to(self.root).as_posix()
        except ValueError:
            shown = path.as_posix()
        shown = self.root.name if shown == "." else shown
        if not self.hide:
            return shown
        shown = _UID.sub(MASK, shown)
        for secret in sorted(self.secrets, key=len, reverse=True):
            shown = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", MASK, shown, flags=re.IGNORECASE)
        return shown


def identifying_words(patient_id: str, patient_name: str, birth_date: str) -> frozenset[str]:
    """What a file's name must not tell: the id, the birth date and every part of the name longer than one letter."""
    parts: Iterable[str] = re.split(r"[\^=\s,._-]+", patient_name)
    return frozenset({patient_id, patient_name, birth_date, *(p for p in parts if len(p) > 1)} - {""})
