"""A file is there whole or not at all."""

from pathlib import Path

import pytest

from arm_models.whole_file import write_whole


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.0.json"
    for content, read in (("α", b"\xce\xb1"), (b"\x00", b"\x00")):
        write_whole(file, content)
        assert file.read_bytes() == read
    assert list(file.parent.iterdir()) == [file]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_text("before")

    def full(path: Path, _: bytes) -> int:
        with path.open("wb") as torn:
            torn.write(b"af")
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(file, "after")
    assert file.read_text() == "before"
