"""Reading .npz archives from strangers: nothing is unpickled, nothing is believed before it is checked."""

from __future__ import annotations

import bz2
import copy
import io
import math
import sys
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from monai_vmat.bombs import require_plausible
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole

# A volume of 1024^3 float32 voxels; anything larger is a damaged header or an archive bomb.
MAX_ARRAY_BYTES = 4 * 1024**3
_CHUNK_BYTES = 1024**2
_HEADER_BYTES = 16 * 1024  # NumPy reads headers of up to 10,000 characters
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)

_REMAKE = "Copy or convert the file again"


class NpzArchive:
    """A context manager that reads named arrays of an ``.npz`` file.

    Every array's header is checked before its data is read: plain number or text types only, and a size that agrees with
    the archive's directory. What the directory says is believed only as far as the file's own size allows.

    Raises:
        InputError: when the file is missing, is no zip archive, is truncated, corrupt or an archive bomb, or a named array is
            missing, there twice, pickled or of an absurd size.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError as error:
            raise InputError(self.path, "does not exist", "Check the path") from error
        except IsADirectoryError as error:
            raise InputError(self.path, "is a folder, a .npz file was expected", "Name a file") from error
        except PermissionError as error:
            raise InputError(self.path, f"cannot be read ({error.strerror})", "Change the file's permissions") from error
        except Exception as error:  # a damaged directory fails in many ways
            raise InputError(self.path, f"is not a whole .npz archive ({error})", _REMAKE) from error
        require_plausible(self.path, sum(entry.file_size for entry in self._zip.infolist()))
        self.names = tuple(n.removesuffix(".npy") for n in self._zip.namelist() if n.endswith(".npy"))

    def __enter__(self) -> NpzArchive:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def checksums(self) -> dict[str, tuple[int, int]]:
        """Size and CRC-32 of each array's file, as the archive's directory states them: no data are read."""
        return {entry.filename: (entry.file_size, entry.CRC) for entry in self._zip.infolist()}

    def read(self, name: str) -> np.ndarray:
        """Return the array ``name``."""
        info = self._entry(name)
        try:
            with self._open(info) as member:
                chunk, (shape, fortran, dtype) = self._header(member, name)
                size = math.prod(shape) * dtype.itemsize
                there = info.file_size - member.tell() + len(chunk)
                if size > MAX_ARRAY_BYTES or size != there:
                    raise InputError(
                        self.path,
                        f"array '{name}': shape {shape} of {dtype} needs {size} bytes, the archive holds "
                        f"{there} and {MAX_ARRAY_BYTES} are allowed",
                        _REMAKE,
                    )
                buffer = np.empty(size, np.uint8)  # takes memory only as data arrives, and holds it once
                filled = 0
                while chunk or (chunk := member.read(_CHUNK_BYTES)):
                    buffer[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
                    filled += len(chunk)
                    chunk = b""
            if filled != size:
                raise InputError(self.path, f"array '{name}' is cut short ({filled} of {size} bytes)", _REMAKE)
            array = np.ndarray(shape, dtype, buffer, order="F" if fortran else "C")
            if dtype.kind == "U" and (buffer.view(np.dtype("u4").newbyteorder(dtype.byteorder)) > sys.maxunicode).any():
                raise InputError(self.path, f"array '{name}' holds bytes that are no characters", _REMAKE)
            return array
        except InputError:
            raise
        except Exception as error:  # headers and data of strangers fail in many ways in numpy, ast, tokenize, zlib, lzma...
            raise InputError(self.path, f"array '{name}' cannot be read ({error or type(error).__name__})", _REMAKE) from error

    def read_pickle(self, name: str, max_bytes: int) -> bytes:
        """The bytes that the pickled array ``name`` consists of, as they are: nothing is unpickled."""
        info = self._entry(name)
        try:
            with self._open(info) as member:
                data, (_, _, dtype) = self._any_header(member, name)
                if dtype != np.dtype(object):
                    raise InputError(self.path, f"array '{name}' is of type '{dtype}', a pickled object was expected", _REMAKE)
                data += member.read(max_bytes + 1 - len(data))
        except InputError:
            raise
        except Exception as error:
            raise InputError(self.path, f"array '{name}' cannot be read ({error or type(error).__name__})", _REMAKE) from error
        if len(data) > max_bytes:
            raise InputError(self.path, f"array '{name}': its pickle has more than {max_bytes} bytes", "Leave it out")
        return data

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self.names:
            raise InputError(self.path, f"array '{name}' is missing (found: {', '.join(self.names) or 'none'})", _REMAKE)
        if self.names.count(name) > 1:
            raise InputError(self.path, f"array '{name}' is there {self.names.count(name)} times", _REMAKE)
        return self._zip.getinfo(f"{name}.npy")

    def _open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        if info.compress_type not in _METHODS:
            raise InputError(
                self.path, f"'{info.filename}' is packed by method {info.compress_type}", "Save it with numpy.savez"
            )
        if info.compress_type != zipfile.ZIP_BZIP2:
            return self._zip.open(info)
        # zipfile would inflate four kilobytes at once to whatever they become, eighty megabytes perhaps; bz2 goes on in steps.
        raw: Any = copy.copy(info)
        raw.compress_type, raw.file_size, raw.CRC = zipfile.ZIP_STORED, info.compress_size, None
        return bz2.BZ2File(self._zip.open(raw))

    def _any_header(self, member: IO[bytes], name: str) -> tuple[bytes, tuple[tuple[int, ...], bool, np.dtype]]:
        """What was read beyond the header, and shape, whether in Fortran order, and type."""
        head = io.BytesIO(member.read(_HEADER_BYTES))
        version = np.lib.format.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise InputError(self.path, f"array '{name}' has format version {version}, 1.0 or 2.0 was expected", _REMAKE)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header = read(head)
        return head.read(), header

    def _header(self, member: IO[bytes], name: str) -> tuple[bytes, tuple[tuple[int, ...], bool, np.dtype]]:
        rest, (shape, fortran, dtype) = self._any_header(member, name)
        if dtype.kind not in "biufU":
            raise InputError(
                self.path,
                f"array '{name}' is of type '{dtype}', plain numbers or text were expected (pickled objects are never read)",
                "Save it as a number array, or migrate the file",
            )
        return rest, (shape, fortran, dtype)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], *, smallest: bool = False) -> None:
    """Write a compressed ``.npz``, whole or not at all.

    Args:
        path: the file.
        arrays: what goes into it.
        smallest: compress by bzip2, which NumPy reads as well and which takes a third less room for CT and dose, but some
            tenths of a second to read.
    """
    method = zipfile.ZIP_BZIP2 if smallest else zipfile.ZIP_DEFLATED
    with write_whole(path) as temporary, zipfile.ZipFile(temporary, "w", method) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # of no date: the same arrays make the same file
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
