"""Records say what ran, and nothing about whose machine it was."""

import hashlib
import subprocess

from monai.bundle import ConfigParser

from monai_vmat import provenance


def test_the_running_configuration_is_found_with_overrides():
    parser = ConfigParser({"width": "$2 * 8", "list": [1, {"a": None}]})
    parser["extra"] = 0.5
    parser["recorder"] = {"_target_": "monai_vmat.provenance.running_config"}
    assert parser.get_parsed_content("recorder")["width"] == "$2 * 8"  # nobody asked for its value yet
    parser.ref_resolver.remove_resolved_content("recorder")
    assert parser.get_parsed_content("width") == 16
    found = parser.get_parsed_content("recorder")
    assert found["width"] == 16 and found["list"] == [1, {"a": None}] and found["extra"] == 0.5


def test_no_configuration_outside_a_bundle():
    assert provenance.running_config() == {}


def test_git_commit(tmp_path):
    assert provenance.git_commit(tmp_path) is None

    def git(*args):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=tmp_path, check=True, capture_output=True
        )

    git("init")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-m", "x")
    clean = provenance.git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "f").write_text("2")
    assert provenance.git_commit(tmp_path) == f"{clean}-dirty"


def test_checksums(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"abc")
    assert provenance.checksums({"a": tmp_path / "a.npz"}) == {"a": hashlib.sha256(b"abc").hexdigest()}


def test_versions_and_hardware():
    assert provenance.versions()["torch"].startswith("2.")
    assert set(provenance.hardware()) == {"machine", "cpu", "torch_threads", "gpu"}
