"""What the command lines share that make case files of data with named structures: options, restart, one report at the end."""

from __future__ import annotations

import argparse
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from monai_vmat.case import Case, write_case
from monai_vmat.console import say, table
from monai_vmat.dicom.names import NameMatch
from monai_vmat.errors import InputError
from monai_vmat.parallel import add_workers_option, map_in_processes
from monai_vmat.protocol import Protocol


class Source(typing.Protocol):
    """What may become a case: a study, a folder. It is sent to worker processes."""

    @property
    def label(self) -> str:
        """What messages call it, without identifiers."""

    @property
    def case_id(self) -> str:
        """Of the case that it would become, also the name of the file."""

    def match(self) -> NameMatch:
        """What the names of its structures mean. Raises InputError when they cannot be read."""

    def require_usable(self, match: NameMatch) -> None:
        """Raise InputError for what makes it unusable and is known before volumes are read."""

    def make(self) -> tuple[Case, list[str]]:
        """The case, and remarks that a user may want to know. Raises InputError for whatever makes it unusable."""


@dataclass(frozen=True)
class Outcome:
    """What became of a source."""

    label: str
    case_id: str
    status: str  # converted, already there, refused; with --dry-run: usable, refused
    reason: str = ""
    remarks: Sequence[str] = ()
    found: Mapping[str, str] = field(default_factory=dict)
    ambiguous: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unmatched: Sequence[str] = ()


def conversion_parser(description: str | None, epilog: str, source_help: str) -> argparse.ArgumentParser:
    """A parser with the arguments and options that all conversions have."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=raw)
    parser.add_argument("source", metavar="SRC", type=Path, help=source_help)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the case files")
    parser.add_argument("--protocol", required=True, metavar="NAME", help="treatment site: a name or a JSON file")
    parser.add_argument("--dry-run", action="store_true", help="only show which names match and what would be refused")
    parser.add_argument("--mapping", type=Path, metavar="JSON", help="structures of your own names")
    add_workers_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="convert again what has its case file already")
    return parser


def convert_all(
    sources: Sequence[Source | Outcome],
    options: argparse.Namespace,
    protocol: Protocol,
    unit: str,
    units: str,
    show_ids: bool = True,
) -> list[Outcome]:
    """Convert what is not there yet, or with ``--dry-run`` look at it only, and report.

    Args:
        sources: what is to be converted; outcomes for what was refused before.
        options: of a :func:`conversion_parser`.
        protocol: the cases' protocol.
        unit: what a source is called.
        units: what several are called.
        show_ids: whether case ids mean anything yet.

    Returns:
        what became of each.

    Raises:
        InputError: when nothing could be converted, or a worker process was killed.
    """
    sources = _refuse_same_ids(sources, units)
    settled = [item for item in sources if isinstance(item, Outcome)]
    waiting = [item for item in sources if not isinstance(item, Outcome)]
    if options.dry_run:
        outcomes = settled + map_in_processes(_look, waiting, options.workers, unit)
    else:
        there = [s for s in waiting if not options.overwrite and (options.out / f"{s.case_id}.npz").exists()]
        settled += [Outcome(source.label, source.case_id, "already there") for source in there]
        waiting = [source for source in waiting if source not in there]
        outcomes = settled + map_in_processes(partial(_convert, out=options.out), waiting, options.workers, unit)
    _report(outcomes, protocol, units, show_ids)
    if all(outcome.status == "refused" for outcome in outcomes):
        raise InputError(options.source, f"none of its {units} can be converted", "See the reasons above")
    return outcomes


def _refuse_same_ids(sources: Sequence[Source | Outcome], units: str) -> list[Source | Outcome]:
    """Sources that would write the same file are refused, all of them: which one is meant is not for us to say."""
    counts = Counter(source.case_id for source in sources if not isinstance(source, Outcome))
    checked: list[Source | Outcome] = []
    for source in sources:
        if not isinstance(source, Outcome) and counts[source.case_id] > 1:
            problem = f"{counts[source.case_id]} {units} would be case {source.case_id}: copies, or plans under one name"
            reason = InputError(source.label, problem, "Leave one in SRC, or give each a name of its own")
            source = Outcome(source.label, source.case_id, "refused", str(reason))
        checked.append(source)
    return checked


def _look(source: Source) -> Outcome:
    """What a conversion would find before it reads volumes."""
    outcome = Outcome(source.label, source.case_id, "usable")
    try:
        match = source.match()
        names = {structure: roi.name for structure, roi in match.found.items()}
        outcome = replace(outcome, found=names, ambiguous=match.ambiguous, unmatched=match.unmatched)
        source.require_usable(match)
    except InputError as error:
        return replace(outcome, status="refused", reason=str(error))
    return outcome


def _convert(source: Source, out: Path) -> Outcome:
    outcome = _look(source)
    if outcome.status == "refused":
        return outcome
    try:
        case, remarks = source.make()
    except InputError as error:
        return replace(outcome, status="refused", reason=str(error))
    write_case(case, out / f"{case.case_id}.npz")
    return replace(outcome, status="converted", remarks=remarks)


def _report(outcomes: Sequence[Outcome], protocol: Protocol, units: str, show_ids: bool) -> None:
    """Names, cases, and what was refused and why."""
    read = [outcome for outcome in outcomes if outcome.found or outcome.unmatched or outcome.ambiguous]
    if read:
        structures = list(dict.fromkeys([*protocol.structure_names, *(s for o in read for s in (*o.found, *o.ambiguous))]))
        rows: list[tuple[object, ...]] = []
        for structure in structures:
            names = Counter(o.found[structure] for o in read if structure in o.found)
            unclear = Counter(" / ".join(o.ambiguous[structure]) for o in read if structure in o.ambiguous)
            rows.append((structure, sum(names.values()), _counted(names), _counted(unclear)))
        rows.append(("(no structure)", "", _counted(Counter(name for o in read for name in o.unmatched)), ""))
        say(table(("structure", units, "names", "ambiguous"), rows) + "\n")
    statuses = Counter(outcome.status for outcome in outcomes)
    say(table((units, "number"), list(statuses.items())))
    for title, chosen in (
        ("cases:", [o for o in outcomes if o.status != "refused"]),
        ("refused, and why:", [o for o in outcomes if o.status == "refused"]),
    ):
        if chosen:
            say(f"\n{title}")
        for outcome in chosen:
            case_id = f"{outcome.case_id} " if show_ids and outcome.status != "refused" else ""
            details = outcome.reason or "; ".join([outcome.status, *outcome.remarks])
            say(f"  {case_id}({outcome.label}): {details}")


def _counted(names: Counter[str]) -> str:
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in names.most_common()) or "-"
