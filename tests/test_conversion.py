"""Sources become case files once; what the command lines show of it is covered with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from monai_vmat.case import Case, read_case
from monai_vmat.conversion import Outcome, conversion_parser, convert_all
from monai_vmat.dicom.names import NameMatch, match_names
from monai_vmat.dicom.structure_set import Roi
from monai_vmat.errors import InputError
from monai_vmat.protocol import Protocol


@dataclass(frozen=True)
class Given:
    """A source that is a case already, or has a fault."""

    case: Case
    protocol: Protocol
    label: str = "first"
    fault: str = ""
    names: tuple[str, ...] = field(default=("PTV70", "Rectum", "Bladder", "couch"))

    @property
    def case_id(self) -> str:
        return self.case.case_id

    def match(self) -> NameMatch:
        return match_names([Roi(n, name, contours=(n + 1,)) for n, name in enumerate(self.names)], self.protocol)

    def require_usable(self, match: NameMatch) -> None:
        match.require_complete(self.protocol, self.label)

    def make(self) -> tuple[Case, list[str]]:
        if self.fault:
            raise InputError(self.label, self.fault, "Mend it")
        return self.case, ["a remark"]


@pytest.fixture
def convert(tmp_path, prostate, monkeypatch):
    """In this process: a new one could not import this file's class."""
    monkeypatch.setattr("monai_vmat.conversion.map_in_processes", lambda work, items, workers, unit: [work(i) for i in items])

    def convert(*sources, words=()) -> list[Outcome]:
        out = str(tmp_path / "out")
        parser = conversion_parser("d", "e", "s")
        options = parser.parse_args(["src", out, "--protocol", prostate.name, "--workers", "1", *words])
        return convert_all(sources, options, prostate, "plan", "plans")

    return convert


def test_what_became_of_each_is_said_and_returned(convert, make_case, prostate, tmp_path, capsys):
    good = Given(make_case(prostate, case_id="a"), prostate)
    faulty = Given(make_case(prostate, case_id="b"), prostate, "second", fault="it is broken")
    twice = Given(make_case(prostate, case_id="c"), prostate, "third", names=("PTV70", "PTV_70", "Rectum", "Bladder"))
    gone = Outcome("fourth", "-", "refused", "not even opened")
    outcomes = {outcome.label: outcome for outcome in convert(good, faulty, twice, gone)}
    assert {label: o.status for label, o in outcomes.items()} == {
        "first": "converted",
        "second": "refused",
        "third": "refused",
        "fourth": "refused",
    }
    assert outcomes["second"].reason == "second: it is broken. Mend it"
    assert outcomes["third"].ambiguous == {"PTV70": ("PTV70", "PTV_70")}
    assert outcomes["first"].unmatched == ("couch",) and outcomes["first"].remarks == ["a remark"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npz"]
    assert read_case(tmp_path / "out" / "a.npz", prostate).case_id == "a"
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "PTV70 2 PTV70 (2) PTV70 / PTV_70" in shown and "(no structure) couch (2)" in shown
    assert "converted 1" in shown and "refused 3" in shown
    assert "a (first): converted; a remark" in shown and "(fourth): not even opened" in shown


def test_sources_of_one_case_are_refused_all(convert, make_case, prostate, tmp_path):
    case = make_case(prostate, case_id="a")
    other = Given(make_case(prostate, case_id="b"), prostate, "third")
    outcomes = convert(Given(case, prostate), Given(case, prostate, "second"), other)
    assert [(o.label, o.status) for o in outcomes] == [("first", "refused"), ("second", "refused"), ("third", "converted")]
    assert "first: 2 plans would be case a" in outcomes[0].reason
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.npz"]


def test_nothing_converted_is_an_error(convert):
    with pytest.raises(InputError, match="src: none of its plans can be converted"):
        convert(Outcome("first", "-", "refused", "broken"))
