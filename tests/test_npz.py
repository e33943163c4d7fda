import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, boolean_dtypes, floating_dtypes, integer_dtypes

from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive, write_npz

ARRAYS = {
    "ct": np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4),
    "dose": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3).T,  # in Fortran order
    "names": np.asarray(["PTV70", "Ä"]),
    "scale": np.asarray(0.01),
    "mask": np.asarray([True, False]),
    "none": np.zeros((0, 3), np.uint8),
}


def archive_bytes(save=np.savez, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def read_all(path) -> dict[str, np.ndarray]:
    with NpzArchive(path) as archive:
        return {name: archive.read(name) for name in archive.names}


def write_member(path, header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> None:
    """An archive with one array ``a`` of any header."""
    text = header.encode("latin1").ljust(54) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
        archive.writestr("a.npy", b"\x93NUMPY" + bytes(version) + length + text + data)


def header(descr: str = "'<i2'", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(tmp_path, save):
    (tmp_path / "a.npz").write_bytes(archive_bytes(save, **ARRAYS))
    found = read_all(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.writeable
    with NpzArchive(tmp_path / "a.npz") as archive:
        assert "ct" in archive and "missing" not in archive


def test_writes_what_numpy_reads(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(archive[name], array, strict=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_file_is_refused_at_every_length(tmp_path, save):
    whole = archive_bytes(save, ct=ARRAYS["ct"])
    for length in range(len(whole)):
        (tmp_path / "a.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.npz: "):
            read_all(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_is_refused_or_does_no_harm(tmp_path, save):
    whole = archive_bytes(save, ct=ARRAYS["ct"])
    refused = 0
    for i in range(len(whole)):
        (tmp_path / "a.npz").write_bytes(whole[:i] + bytes([whole[i] ^ 0x15]) + whole[i + 1 :])
        try:
            found = read_all(tmp_path / "a.npz")
        except InputError:
            refused += 1
        else:
            for array in found.values():
                np.testing.assert_array_equal(array, ARRAYS["ct"], strict=True)
    assert refused > len(whole) / 2


class Evil:
    """Its unpickling would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path):
    marker = tmp_path / "executed"
    np.savez(tmp_path / "a.npz", a=np.asarray([Evil(marker)], dtype=object))
    with pytest.raises(InputError, match="array 'a' is of type 'object'.*never read"):
        read_all(tmp_path / "a.npz")
    write_member(tmp_path / "b.npz", header("'<i2'", "(2,)"), pickle.dumps(Evil(marker)))  # the header hides it
    with pytest.raises(InputError):
        read_all(tmp_path / "b.npz")
    assert not marker.exists()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:
        archive["a"].item().close()
    assert marker.exists()  # so it would have been


@pytest.mark.parametrize("array", [np.zeros(2, "f4,i2"), np.asarray([b"x"]), np.zeros(2, complex), np.zeros(2, "M8[s]")])
def test_types_other_than_numbers_and_text_are_refused(tmp_path, array):
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(InputError, match="array 'a' is of type"):
        read_all(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", ["(2, 4)", "(2, 2)", "()", f"({2**40}, 3)", f"({10**30},)"])
def test_a_shape_that_the_data_do_not_have_is_refused(tmp_path, shape):
    write_member(tmp_path / "a.npz", header(shape=shape), bytes(12))
    with pytest.raises(InputError, match="array 'a': shape .* needs .* bytes, the archive holds 12"):
        read_all(tmp_path / "a.npz")


@pytest.mark.parametrize(("shape", "size"), [("(-2, -3)", 12), ("(-1, -6)", 12), (f"(0, {10**30})", 0), ("(2, 3.0)", 12)])
def test_an_impossible_shape_is_refused(tmp_path, shape, size):
    write_member(tmp_path / "a.npz", header(shape=shape), bytes(size))
    with pytest.raises(InputError, match="array 'a' cannot be read"):
        read_all(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "text",
    ["{'descr': '<i2', 'shape': (", "(" * 5000, "-" * 9000 + "1", "'''", "[1]", header("()"), header("','"), "\0", "x" * 20000],
)
def test_a_header_that_is_none_is_refused(tmp_path, text):
    write_member(tmp_path / "a.npz", text)
    with pytest.raises(InputError, match="array 'a'"):
        read_all(tmp_path / "a.npz")


def test_a_new_header_version_is_refused(tmp_path):
    write_member(tmp_path / "a.npz", header(), bytes(12), version=(2, 0))
    assert read_all(tmp_path / "a.npz")["a"].shape == (2, 3)
    write_member(tmp_path / "a.npz", header(), bytes(12), version=(3, 0))
    with pytest.raises(InputError, match=r"format version \(3, 0\)"):
        read_all(tmp_path / "a.npz")


def test_text_of_no_characters_is_refused(tmp_path):
    write_member(tmp_path / "a.npz", header("'<U3'", "(2,)"), b"\xff" * 24)
    with pytest.raises(InputError, match="array 'a' holds bytes that are no characters"):
        read_all(tmp_path / "a.npz")


def test_a_directory_that_lies_with_the_header_is_refused(tmp_path):
    """Both claim 2 MB where 1000 bytes are."""
    size = 2 * 1024**2
    write_member(tmp_path / "a.npz", header(shape=f"({size // 2},)"), bytes(1000))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        stored = archive.getinfo("a.npy").file_size
    raw = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(raw.replace(stored.to_bytes(4, "little"), (stored - 1000 + size).to_bytes(4, "little")))
    with pytest.raises(InputError, match="array 'a' cannot be read"):
        read_all(tmp_path / "a.npz")


def test_an_array_beyond_every_volume_is_refused(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", {"a": np.zeros(1000, np.int16)})
    monkeypatch.setattr("monai_vmat.npz.MAX_ARRAY_BYTES", 2000)
    assert read_all(tmp_path / "a.npz")["a"].shape == (1000,)
    monkeypatch.setattr("monai_vmat.npz.MAX_ARRAY_BYTES", 1999)
    with pytest.raises(InputError, match="2000 bytes.*1999 are allowed"):
        read_all(tmp_path / "a.npz")


def test_missing_array(tmp_path):
    np.savez(tmp_path / "a.npz", ct=ARRAYS["ct"], dose=ARRAYS["dose"])
    problem = r"array 'mask' is missing \(found: ct, dose\)"
    with NpzArchive(tmp_path / "a.npz") as archive, pytest.raises(InputError, match=problem):
        archive.read("mask")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "one.npy", ARRAYS["ct"])
    for name, problem in {
        "text.npz": "not a whole .npz archive",
        "one.npy": "not a whole .npz archive",
        "missing.npz": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(InputError, match=problem):
            NpzArchive(tmp_path / name)


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(InputError, match=r"a\.npz: cannot be read \(Permission denied\)"):
        NpzArchive(tmp_path / "a.npz")


def test_reading_holds_the_data_once(tmp_path):
    write_npz(tmp_path / "a.npz", {"a": np.random.default_rng(0).integers(0, 255, (32, 1024, 1024), np.uint8)})
    tracemalloc.start()
    array = read_all(tmp_path / "a.npz")["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * array.nbytes


def peak_of_refusal(path, problem: str) -> int:
    """Bytes that are held at most while the file's array ``a`` is refused."""
    tracemalloc.start()
    with pytest.raises(InputError, match=problem):
        read_all(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_an_archive_bomb_is_refused_before_it_is_inflated(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros((64, 1024, 1024), np.uint8))
    assert peak_of_refusal(tmp_path / "a.npz", "claims to hold 67108992 bytes in .*archive bomb") < 1e6


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_bomb_that_says_that_it_is_small_is_not_inflated_at_once(tmp_path, method):
    """Of bzip2 zipfile inflates four kilobytes at a time: to eighty megabytes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros((64, 1024, 1024), np.uint8))
    size = 128 + 64 * 1024**2
    raw = (tmp_path / "a.npz").read_bytes()
    assert raw.count(size.to_bytes(4, "little")) >= 1
    (tmp_path / "a.npz").write_bytes(raw.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    assert peak_of_refusal(tmp_path / "a.npz", "array 'a'") < 10e6


def test_a_header_of_megabytes_is_not_read(tmp_path):
    data = b"\x93NUMPY\x02\x00" + (10_000_000).to_bytes(4, "little") + b" " * 10_000_000
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    assert peak_of_refusal(tmp_path / "a.npz", "array 'a' cannot be read") < 1e6


def test_a_packing_that_numpy_does_not_write_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", b"\x93NUMPY")
    with pytest.raises(InputError, match="'a.npy' is packed by method 14"):
        read_all(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=ARRAYS["ct"])
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("a.npy", archive.read("a.npy"))
    with pytest.raises(InputError, match="array 'a' is there 2 times"):
        read_all(tmp_path / "a.npz")


ANY_ARRAY = st.one_of(boolean_dtypes(), integer_dtypes(), floating_dtypes(), st.just(np.dtype("<U5"))).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@settings(max_examples=40)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), ANY_ARRAY, max_size=4), st.booleans())
def test_whatever_is_written_is_read_again(tmp_path_factory, written, smallest):
    path = tmp_path_factory.mktemp("any") / "a.npz"
    write_npz(path, written, smallest=smallest)
    found = read_all(path)
    assert list(found) == list(written)
    for name, array in written.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
