"""What may be shown of a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_vmat.dicom.privacy import PathNames, identifying_words

ROOT = Path("/data/export")
WORDS = identifying_words("4711", "van der Berg^Jan-Willem^^Dr=x", "19470813")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a/b.dcm", "a/b.dcm"),
        ("Berg_Jan/ct.dcm", "***_***/ct.dcm"),
        ("BERG/4711/19470813.dcm", "***/***/***.dcm"),
        ("iceberg/47110/x19470813.dcm", "iceberg/47110/x19470813.dcm"),  # words of their own
        ("CT.1.2.826.0.1.3680043.8.498.55.dcm", "CT.***.dcm"),
        ("1.2.3.4/v1.2.3.dcm", "1.2.3.4/v1.2.3.dcm"),  # too short for a UID
        ("x/y.dcm", "x/y.dcm"),  # of one letter, a part of the name tells nothing
    ],
)
def test_names_ids_dates_and_uids_are_masked(path, shown):
    assert PathNames(ROOT, WORDS)(ROOT / path) == shown


def test_the_words_of_a_patient():
    assert WORDS == {"4711", "van der Berg^Jan-Willem^^Dr=x", "van", "der", "Berg", "Jan", "Willem", "Dr", "19470813"}
    assert identifying_words("", "", "") == frozenset()


def test_the_longest_secret_goes_first():
    """Masked after its part, a whole name would leave the rest of itself."""
    assert PathNames(ROOT, frozenset({"Jan", "Jan Berg"}))(ROOT / "Jan Berg") == "***"


def test_the_root_and_what_is_not_below_it():
    names = PathNames(ROOT, frozenset({"export"}))
    assert names(ROOT) == "***" and PathNames(ROOT)(ROOT) == "export"
    assert names(Path("/elsewhere/a.dcm")) == "/elsewhere/a.dcm"


def test_everything_is_shown_to_those_who_ask():
    assert PathNames(ROOT, WORDS, hide=False)(ROOT / "Berg/4711.dcm") == "Berg/4711.dcm"


def test_secrets_are_not_shown_by_their_keeper():
    assert "Berg" not in repr(PathNames(ROOT, WORDS))
