"""No code of ours runs what a file holds."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("monai_vmat", "data_scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
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
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert dangers(source)


def test_tensorboard_is_for_this_machine_alone():
    commands = [line for line in (ROOT / "Makefile").read_text().splitlines() if "/tensorboard " in line]
    assert commands and all("--host localhost" in line for line in commands)
