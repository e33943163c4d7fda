"""The bundle is found from both folders, and outputs land in one place."""

import pytest

from monai_vmat.errors import InputError
from monai_vmat.paths import find_bundle, project_root


@pytest.fixture
def project(tmp_path):
    configs = tmp_path / "bundles" / "dose" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("start", [".", "bundles/dose"])
def test_both_folders_lead_to_the_same_bundle_and_root(project, start, monkeypatch):
    monkeypatch.chdir(project / start)
    assert find_bundle() == str((project / "bundles" / "dose").resolve())
    assert project_root(find_bundle()) == str(project.resolve())


def test_a_bundle_on_its_own_is_its_own_root(tmp_path):
    assert project_root(str(tmp_path / "vmat_dose")) == str((tmp_path / "vmat_dose").resolve())


def test_elsewhere_says_where_to_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--bundle_root"):
        find_bundle()
