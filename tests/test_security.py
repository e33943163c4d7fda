"""No code of ours runs what a file holds, or writes to where it says."""

import ast
import zipfile
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive
from monai_vmat.weights import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("monai_vmat", "data_scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
UNPACKING = ("extract", "extractall", "unpack_archive")  # to the names that an archive says
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}


def dangers(source: str) -> list[str]:
    """What in a module's source could run code of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name.split(".")[0] for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call):
            called, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in CALLS or options.get("shell") == "True" or options.get("allow_pickle", "False") != "False":
                found.append(called)
            if called.rpartition(".")[2] in UNPACKING:
                found.append(called)
            if called.endswith("torch.load") and options.get("weights_only") != "True":
                found.append(called)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_evaluates(path):
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "subprocess.run(command, shell=True)",
        "zipfile.ZipFile(path).extractall(folder)",
        "shutil.unpack_archive(path)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert dangers(source)


def test_tensorboard_is_for_this_machine_alone():
    """In every command that we run or tell."""
    documents = [ROOT / "Makefile", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.*"), *(ROOT / "bundles").rglob("*.md")]
    lines = [line for path in documents if path.suffix != ".png" for line in path.read_text().splitlines()]
    commands = [line for line in lines if "tensorboard --" in line]
    assert len(commands) >= 2 and all("--host localhost" in line for line in commands)
    assert not any("bind_all" in line for line in lines)


@pytest.mark.parametrize("name", ["../../evil.npy", "/{folder}/evil.npy", "..\\..\\evil.npy"])
def test_names_in_archives_lead_nowhere(tmp_path, name):
    """An array of whatever name is read from the archive; nothing is written anywhere, or read from anywhere else."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    np.save(folder / "array.npy", np.arange(3))
    with zipfile.ZipFile(folder / "case.npz", "w") as archive:
        archive.write(folder / "array.npy", name.format(folder=tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with NpzArchive(folder / "case.npz") as archive:
        (stored,) = archive.names
        assert archive.read(stored).tolist() == [0, 1, 2]
    with pytest.raises(InputError):
        load_checkpoint(folder / "case.npz")
    assert sorted(tmp_path.rglob("*")) == before
