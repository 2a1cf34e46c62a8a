import hashlib
from pathlib import Path

import pytest

from evoprune.data.download import download


def test_first_address_with_the_right_checksum_is_taken(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"cut")
    (tmp_path / "good").write_bytes(b"whole")
    urls = [(tmp_path / name).as_uri() for name in ("missing", "bad", "good")]
    target = tmp_path / "data" / "file"
    download(urls, target, hashlib.md5(b"whole").hexdigest())
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_nothing_is_left_of_a_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"cut")
    with pytest.raises(OSError, match="another checksum"):
        download([(tmp_path / "bad").as_uri()], tmp_path / "data" / "file", "0" * 32)
    assert not list((tmp_path / "data").iterdir())
