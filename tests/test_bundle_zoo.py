"""What MONAI Model Zoo's CI asks of a bundle, as far as it can be asked offline; a damaged bundle fails every check."""

import hashlib
import json
import re
import shutil
import sys
from configparser import ConfigParser as IniParser
from pathlib import Path

import monai
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, init_bundle, verify_metadata, verify_net_in_out

from monai_vmat.case import write_case
from monai_vmat.protocol import load_protocol
from monai_vmat.weights import build_network, facts_of, load_weights, read_weights

ROOT = Path(__file__).resolve().parents[1]
LARGE_BYTES = 25_000_000  # what the Zoo's repository takes; larger files are named in large_files.yml
REQUIRED_FILES = ("LICENSE", "configs/metadata.json", "configs/inference.json", "configs/train.json", "configs/logging.conf")
REQUIRED_FILES += ("docs/README.md", "models/model.pt")
SECTIONS = ("Data", "Training configuration", "Input", "Output", "Performance", "Resources", "Commands")
SECTIONS += ("Models", "Uncertainty", "Intended use and limits", "Failure cases", "References", "Licence")
# Keys that programs which know only the Zoo's conventions (federated learning, labelling, deployment) look up.
INFERENCE_KEYS = ("bundle_root", "dataset_dir", "output_dir", "device", "network_def", "network", "preprocessing", "dataset")
INFERENCE_KEYS += ("dataloader", "inferer", "postprocessing", "handlers", "evaluator", "initialize", "run")
TRAIN_KEYS = ("bundle_root", "dataset_dir", "output_dir", "device", "network_def", "val_interval", "initialize", "run")
TRAIN_KEYS += tuple(f"train#{key}" for key in ("trainer", "trainer#max_epochs", "dataset", "dataset#data", "handlers"))
TRAIN_KEYS += tuple(f"train#{key}" for key in ("preprocessing", "inferer", "key_metric"))
TRAIN_KEYS += tuple(f"validate#{key}" for key in ("evaluator", "dataset", "dataset#data", "handlers", "preprocessing"))
TRAIN_KEYS += tuple(f"validate#{key}" for key in ("postprocessing", "inferer", "key_metric"))

# MONAI's schema is a download; these are its rules, and stricter ones, as the bundle specification states them.
TEXT, VERSION = {"type": "string", "minLength": 1}, {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"],
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": TEXT,
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
        "dtype": {"enum": ["float32", "float16", "int64", "uint8"]},
        "value_range": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": TEXT},
    },
}
TEXTS = ("schema", "name", "task", "description", "authors", "copyright", "data_source", "data_type", "intended_use")
VERSIONS = ("version", "monai_version", "pytorch_version", "numpy_version")
PACKAGES = "required_packages_version"
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": [*TEXTS, *VERSIONS, "changelog", PACKAGES, "references", "network_data_format"],
    "properties": {
        **dict.fromkeys(TEXTS, TEXT),
        **dict.fromkeys(VERSIONS, VERSION),
        "changelog": {"type": "object", "propertyNames": VERSION, "additionalProperties": TEXT, "minProperties": 1},
        PACKAGES: {"type": "object", "additionalProperties": VERSION},
        "references": {"type": "array", "items": TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                "inputs": {
                    "type": "object",
                    "required": ["image", "constraints"],
                    "properties": {"image": TENSOR, "constraints": TENSOR},
                },
                "outputs": {"type": "object", "required": ["pred"], "properties": {"pred": TENSOR}},
            },
        },
    },
}


def read(bundle, name):
    return json.loads((bundle / "configs" / name).read_text())


def lookup(content, key):
    *parents, last = key.split("#")
    for name in parents:
        content = content[name]
    return content, last


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A copy of the bundle with random weights, of a width that tests can afford."""
    folder = shutil.copytree(ROOT / "bundles" / "dose", tmp_path_factory.mktemp("zoo") / "dose", ignore=only_sources)
    for name in ("train.json", "inference.json"):
        write(folder, name, base_channels=8)
    parser = ConfigParser(read(folder, "inference.json") | {"bundle_root": str(folder)})
    (folder / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    return folder


def only_sources(folder, names):
    return {"models", "runs", "predictions", "eval"} & set(names)


def files(bundle):
    assert [name for name in REQUIRED_FILES if not (bundle / name).is_file()] == []
    assert "Apache License" in (bundle / "LICENSE").read_text()


def documentation(bundle):
    text = (bundle / "docs" / "README.md").read_text()
    assert set(SECTIONS) <= set(re.findall(r"^## (.+)$", text, re.MULTILINE))
    assert "not a medical device" in text


def as_a_fresh_bundle(bundle):
    """MONAI's own skeleton of a new bundle has nothing that this one lacks."""
    skeleton = bundle.parent / "skeleton"
    init_bundle(str(skeleton), network=torch.nn.Conv3d(1, 1, 1))
    try:
        expected = [path.relative_to(skeleton) for path in skeleton.rglob("*") if path.is_file()]
        assert [path for path in expected if not (bundle / path).exists()] == []
        assert {"network_def", "network", "evaluator", "handlers"} <= set(read(skeleton, "inference.json"))
        for name in ("inference.json", "metadata.json"):
            renamed = {"ckpt_path": "weights", "evaluating": "inference", "datalist": "input"}
            wanted = {renamed.get(key, key) for key in read(skeleton, name)}
            assert wanted - set(read(bundle, name)) == set()
    finally:
        shutil.rmtree(skeleton)


def no_large_files(bundle):
    found = [path for path in bundle.rglob("*") if path.is_file() and "models" not in path.relative_to(bundle).parts]
    assert [path.name for path in found if path.stat().st_size > LARGE_BYTES] == []


def no_machine_paths(bundle):
    texts = [path for path in bundle.rglob("*") if path.suffix in (".json", ".conf", ".md")]
    absolute = re.compile(r"""['"\s=(](?:/(?:home|Users|root|mnt|work\w*|tmp)/|[A-Z]:\\)\S*""")
    assert [hit[0] for path in texts if (hit := absolute.search(path.read_text()))] == []


def versions(bundle):
    metadata = read(bundle, "metadata.json")
    newest = max(metadata["changelog"], key=lambda version: [int(part) for part in version.split(".")])
    package = IniParser()
    package.read(ROOT / "setup.cfg")
    assert metadata["version"] == newest == package["metadata"]["version"]
    needed = {re.split("[<>=]", line)[0] for line in package["options"]["install_requires"].split()}
    assert set(metadata["required_packages_version"]) == needed - {"monai", "torch", "numpy"}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    stated = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"], "numpy": metadata["numpy_version"]}
    stated |= metadata["required_packages_version"]
    assert {name: pinned[name] for name in stated} == stated


def schema(bundle):
    path = bundle / "eval" / "schema.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(SCHEMA))
    checksum = hashlib.md5(path.read_bytes()).hexdigest()
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(path), hash_val=checksum)


def tensors(bundle):
    """The metadata describe the protocol's channels and constraints, the image first."""
    described = read(bundle, "metadata.json")["network_data_format"]
    protocol = load_protocol(read(bundle, "inference.json")["protocol_name"])
    expected = {
        "image": list(protocol.channel_names),
        "constraints": [f"{c.name}: {c.unit} / {c.scale:g}" for c in protocol.constraints],
    }
    found = {name: [tensor["channel_def"][str(i)] for i in range(tensor["num_channels"])]
             for name, tensor in described["inputs"].items()}  # fmt: skip
    assert list(found.items()) == list(expected.items())
    assert list(described["outputs"]) == ["pred"]
    low, high = described["inputs"]["constraints"]["value_range"]
    assert (protocol.default_constraint_vector >= low).all() and (protocol.default_constraint_vector <= high).all()


def keys(bundle):
    for name, wanted in (("inference.json", INFERENCE_KEYS), ("train.json", TRAIN_KEYS)):
        parser = ConfigParser(read(bundle, name))
        assert [key for key in wanted if key not in parser] == []


def shapes(bundle):
    """The network takes the image alone, at the stated sizes and at others, and answers as the metadata say."""
    for n, shape in ((1, None), (2, None), (1, ["*", 7, 20])):
        changed = {} if shape is None else {"_meta_#network_data_format#inputs#image#spatial_shape": shape}
        verify_net_in_out("network_def", device="cpu", n=n, bundle_root=str(bundle), **config_files(bundle), **changed)


def torchscript(bundle):
    path = bundle / "models" / "verify_model.ts"
    ckpt_export("network_def", str(path), str(bundle / "models" / "model.pt"), bundle_root=str(bundle), **config_files(bundle))
    assert torch.jit.load(path)(torch.zeros(1, 9, 16, 16, 16)).shape == (1, 1, 16, 16, 16)


def config_files(bundle):
    return {
        f"{kind}_file": str(bundle / "configs" / f"{name}.json")
        for kind, name in (("meta", "metadata"), ("config", "inference"))
    }


CHECKS = (
    files,
    documentation,
    as_a_fresh_bundle,
    no_large_files,
    no_machine_paths,
    versions,
    schema,
    tensors,
    keys,
    shapes,
    torchscript,
)


def test_what_is_shipped_passes(tmp_path):
    """The models in the repository: their size, and the checks that read them, with no setting changed."""
    shipped = list((ROOT / "bundles" / "dose" / "models").glob("*.pt"))
    assert "model.pt" in {path.name for path in shipped} <= {"model.pt", "openkbp.pt", "openkbp_folded.pt"}
    assert sum(path.stat().st_size for path in shipped) <= LARGE_BYTES
    bundle = shutil.copytree(ROOT / "bundles" / "dose", tmp_path / "dose", ignore=shutil.ignore_patterns("runs", "predictions"))
    for check in (files, as_a_fresh_bundle, torchscript):
        check(bundle)


@pytest.mark.parametrize(
    "file, protocol_name",
    [("model.pt", "prostate_sib"), *((name, "openkbp_head_and_neck") for name in ("openkbp.pt", "openkbp_folded.pt"))],
)
def test_shipped_models_say_what_they_are(file, protocol_name):
    path = ROOT / "bundles" / "dose" / "models" / file
    state, protocol = read_weights(path), load_protocol(protocol_name)
    facts = facts_of(state)
    assert facts["protocol"] == protocol_name and {"run", "commit", "seed", "epochs"} <= set(facts["training"])
    assert all(tensor.dtype in (torch.float16, torch.bfloat16) and tensor.isfinite().all() for tensor in state.values())
    load_weights(path, build_network(path, protocol, in_channels=protocol.in_channels, constraint_dim=protocol.constraint_dim))
    assert not re.search(r"/|\\\\", json.dumps(facts))  # no path, and so no machine


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_bundle_passes(bundle, check):
    check(bundle)


def write(bundle, name, **changes):
    """Change values in a configuration; ``None`` removes one."""
    content = read(bundle, name)
    for key, value in changes.items():
        parent, last = lookup(content, key)
        if value is None:
            del parent[last]
        else:
            parent[last] = value
    (bundle / "configs" / name).write_text(json.dumps(content))


def change(name, **changes):
    return lambda bundle: write(bundle, name, **changes)


def remove(name):
    return lambda bundle: (bundle / name).unlink()


def rewrite(name, old, new):
    return lambda bundle: (bundle / name).write_text((bundle / name).read_text().replace(old, new))


def grow(bundle):
    with open(bundle / "docs" / "film.mp4", "wb") as file:
        file.truncate(LARGE_BYTES + 1)


def other_weights(bundle):
    torch.save({"weight": torch.zeros(1)}, bundle / "models" / "model.pt")


INPUTS, OUTPUTS = "network_data_format#inputs", "network_data_format#outputs"
DAMAGE = {
    **{f"no {name}": (files, remove(name), re.escape(name)) for name in REQUIRED_FILES},
    "another licence": (files, lambda bundle: (bundle / "LICENSE").write_text("Mine."), "Apache"),
    "no limits": (documentation, rewrite("docs/README.md", "## Intended use and limits", "## Praise"), "Intended use"),
    "no warning": (documentation, rewrite("docs/README.md", "not a medical device", "a product"), "not a medical device"),
    "no dataloader": (as_a_fresh_bundle, change("inference.json", dataloader=None), "dataloader"),
    "a large file": (no_large_files, grow, "film.mp4"),
    "a path": (no_machine_paths, change("train.json", dataset_dir="/home/me/data"), "/home/me"),
    "a version without change": (versions, change("metadata.json", version="9.0.0"), "9.0.0"),
    "a change without version": (versions, change("metadata.json", **{"changelog": {"0.1.0": "a", "0.10.0": "b"}}), "0.10.0"),
    "another MONAI": (versions, change("metadata.json", monai_version="1.5.0"), "1.5.0"),
    "another package": (versions, change("metadata.json", **{f"{PACKAGES}#scipy": "1.0.0"}), "1.0.0"),
    "a package too few": (versions, change("metadata.json", **{f"{PACKAGES}#tqdm": None}), "tqdm"),
    "no task": (schema, change("metadata.json", task=None), "'task' is a required property"),
    "no pred": (schema, change("metadata.json", **{f"{OUTPUTS}#pred": None}), "'pred' is a required property"),
    "no constraints": (schema, change("metadata.json", **{f"{INPUTS}#constraints": None}), "'constraints' is a required"),
    "channels in words": (schema, change("metadata.json", **{f"{INPUTS}#image#num_channels": "nine"}), "'nine' is not of type"),
    "image last": (tensors, lambda bundle: reverse_inputs(bundle), "image"),
    "another channel": (tensors, change("metadata.json", **{f"{INPUTS}#image#channel_def#3": "Heart"}), "Heart"),
    "another constraint": (tensors, change("metadata.json", **{f"{INPUTS}#constraints#channel_def#3": "Heart"}), "Heart"),
    "no inferer": (keys, change("inference.json", inferer=None), "inferer"),
    "no key metric": (keys, change("train.json", **{"train#key_metric": None}), "train#key_metric"),
    "too few channels": (shapes, change("metadata.json", **{f"{INPUTS}#image#num_channels": 8}), "9"),
    "another type": (shapes, change("metadata.json", **{f"{OUTPUTS}#pred#dtype": "uint8"}), "uint8"),
    "constraints demanded": (
        shapes, change("inference.json", **{"network_def#default_constraints": None}), "there are no defaults"
    ),
    "other weights": (torchscript, other_weights, "Missing key"),
}  # fmt: skip


def reverse_inputs(bundle):
    inputs = read(bundle, "metadata.json")["network_data_format"]["inputs"]
    write(bundle, "metadata.json", **{INPUTS: dict(reversed(inputs.items()))})


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_fails(bundle, tmp_path, name):
    check, damage, told = DAMAGE[name]
    copy = shutil.copytree(bundle, tmp_path / "dose")
    damage(copy)
    with pytest.raises((AssertionError, KeyError, ValueError, RuntimeError), match=told):
        check(copy)


@pytest.fixture
def workflow(bundle, tmp_path, prostate, make_case, monkeypatch):
    """``workflow(kind, *files)``: an initialised workflow on a small cohort."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    content = {"protocol": prostate.name, "training": [], "validation": [], "test": []}
    for i, section in enumerate(("training", "validation", "test")):
        write_case(make_case(prostate, seed=i, case_id=f"case_{i}"), tmp_path / f"case_{i}.npz")
        content[section].append({"case": f"case_{i}.npz", "case_id": f"case_{i}", "patient": f"case_{i}"})
    (tmp_path / "datalist.json").write_text(json.dumps(content))

    def initialised(kind, *names, **changes):
        made = ConfigWorkflow(
            [str(bundle / "configs" / name) for name in names],
            logging_file=False,
            workflow_type=kind,
            bundle_root=str(bundle),
            dataset_dir=str(tmp_path),
            output_dir=str(tmp_path / "out"),
            weights=str(bundle / "models" / "model.pt"),
            **changes,
        )
        made.initialize()
        return made

    yield initialised
    monai.utils.set_determinism(None)


@pytest.mark.parametrize(
    "kind, names", [("train", ["train.json"]), ("train", ["train.json", "evaluate.json"]), ("infer", ["inference.json"])]
)
def test_a_workflow_has_every_property(workflow, kind, names):
    """Each property's object is built, not only found by its name."""
    assert workflow(kind, *names).check_properties() == []


@pytest.mark.parametrize(
    "kind, name, property, changes",
    [
        ("train", "train.json", "val_inferer", {"validate#evaluator#inferer": "@train#inferer"}),
        ("train", "train.json", "train_key_metric", {"train#trainer#key_train_metric": "@validate#key_metric"}),
        ("infer", "inference.json", "preprocessing", {"dataset#transform": "@postprocessing"}),
    ],
)
def test_a_property_that_nothing_refers_to_is_told(workflow, kind, name, property, changes):
    assert property in workflow(kind, name, **changes).check_properties()
