import fcntl
import os
import stat
import tracemalloc

import pytest

from monai_vmat.errors import InputError
from monai_vmat.files import MAX_JSON_BYTES, read_json, text_around, write_json, write_secret, write_whole


def test_content_and_folders_appear(tmp_path):
    path = tmp_path / "new" / "deep" / "a.txt"
    with write_whole(path) as temporary:
        temporary.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), write_whole(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_disk_is_full(tmp_path):
    path = tmp_path / "a.txt"
    problem = r"a\.txt: cannot be written \(No space left.*Free space"
    with pytest.raises(InputError, match=problem), write_whole(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_the_folder_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)  # root, who runs tests in containers, may write anywhere
    with pytest.raises(InputError, match=r"a\.txt: cannot be written \(Permission denied\)"), write_whole(tmp_path / "a.txt"):
        pass


def test_what_killed_writers_left_goes_when_the_file_is_written_again(tmp_path):
    path = tmp_path / "a.txt"
    for name in (".a.txt.k1ll3d.part", ".ab.txt.other.part", "a.txt.part"):
        (tmp_path / name).write_text("half")
    with write_whole(path), write_whole(path) as second:  # two writers that live do not disturb each other
        second.write_text("content")
    assert sorted(os.listdir(tmp_path)) == [".ab.txt.other.part", "a.txt", "a.txt.part"]


def test_a_new_file_is_taken_for_abandoned_before_it_is_locked(tmp_path, monkeypatch):
    lock, taken = fcntl.flock, []

    def take_first(handle, operation):
        if not taken and operation == fcntl.LOCK_EX:
            (left,) = tmp_path.iterdir()
            left.unlink()
            taken.append(left)
        lock(handle, operation)

    monkeypatch.setattr("fcntl.flock", take_first)
    write_json(tmp_path / "a.json", 1)
    assert taken and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("make", ["touch", "mkdir"])
def test_the_path_is_blocked(tmp_path, make):
    getattr(tmp_path / "blocked", make)()
    path = tmp_path / "blocked" / "a.txt" if make == "touch" else tmp_path / "blocked"
    with pytest.raises(InputError, match="blocked.*cannot be written"), write_whole(path) as temporary:
        temporary.write_text("content")
    assert os.listdir(tmp_path) == ["blocked"]


def test_the_file_gets_ordinary_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        with write_whole(tmp_path / "a.txt") as temporary:
            temporary.write_text("content")
    finally:
        assert os.umask(mask) == 0o027
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_secret_is_its_owners_and_stays(tmp_path, monkeypatch):
    path = tmp_path / "new" / ".secret"
    (tmp_path / "new").mkdir()
    (path.parent / "..secret.k1ll3d.part").write_text("")
    write_secret(path, "first")
    write_secret(path, "second")
    assert path.read_text() == "first" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [".secret"]
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(InputError, match=r"\.other: cannot be written \(No space left"):
        write_secret(tmp_path / ".other", "third")
    assert os.listdir(tmp_path) == ["new"]


def _full(handle):
    raise OSError(28, "No space left on device")


def test_json_round_trip(tmp_path):
    content = {"a": [1, 2.5, None, True, "Ä"], "b": {}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize("content", [float("nan"), float("inf"), {1, 2}])
def test_what_json_lacks_is_not_written(tmp_path, content):
    write_json(tmp_path / "a.json", "old")
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"a": content})
    assert read_json(tmp_path / "a.json") == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"[-Infinity]", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_not_read(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(InputError, match=r"a\.json: is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["missing.json", ".", "binary.json"])
def test_what_cannot_be_read(tmp_path, name):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / name)


def test_what_is_larger_than_any_such_file_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # a hole: it takes no room on the disk
    tracemalloc.start()
    with pytest.raises(InputError, match=f"a.json: has {MAX_JSON_BYTES + 1} bytes, at most {MAX_JSON_BYTES} were expected"):
        read_json(tmp_path / "a.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_what_stands_around_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Ä first\n<a>\nold <b> \n</a>\nlast\n", encoding="utf-8")
    assert text_around(page, "<a>", "</a>") == ("Ä first\n", "\nlast\n")
    for begin, end in (("<c>", "</a>"), ("<a>", "<c>"), ("</a>", "<a>")):
        with pytest.raises(InputError, match="page.md: the lines .* were expected"):
            text_around(page, begin, end)
