import pytest

from monai_vmat.bombs import require_plausible
from monai_vmat.errors import InputError

MIB = 1024**2


@pytest.mark.parametrize(("size", "claimed"), [(0, 16 * MIB), (100_000, 50_000_000), (MIB, 500 * MIB)])
def test_what_a_file_may_hold(tmp_path, size, claimed):
    (tmp_path / "a.npz").write_bytes(bytes(size))
    require_plausible(tmp_path / "a.npz", claimed)
    with pytest.raises(InputError, match=f"a.npz: claims to hold {claimed + 501} bytes in {size}: an archive bomb"):
        require_plausible(tmp_path / "a.npz", claimed + 501)
