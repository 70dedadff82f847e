"""`genarm key`: the key is shown once, its entry is one that the server reads."""

from pathlib import Path

import pytest

from server import cli
from server.access import KeyEntry, read_key_file
from server.access.key_file import digest


def made(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    """The key and its entry."""
    assert cli.main(["key", *options]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    return err.rstrip().rpartition(" ")[2], out


def test_the_entry_is_the_keys_and_lets_it_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.yaml"
    key, entry = made(capsys, "--name", "team")
    other, second = made(
        capsys,
        *("--name", "on", "--admin", "--max-concurrent", "2", "--preset", "kind", "--preset", "plain"),
        *("--range", "harmless=1:", "--range", "helpful=-0.5:2"),
    )
    file.write_text(f"keys:\n{entry}{second}")
    assert read_key_file(str(file)) == (
        KeyEntry("team", digest(key.encode())),
        KeyEntry(
            "on",
            digest(other.encode()),
            admin=True,
            max_concurrent=2,
            presets=frozenset({"kind", "plain"}),
            ranges={"harmless": (1.0, None), "helpful": (-0.5, 2.0)},
        ),
    )


def test_the_entry_does_not_hold_the_key_and_no_two_keys_are_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = [made(capsys, "--name", "team") for _ in range(3)]
    for key, entry in pairs:
        assert key.startswith("sk-genarm-")
        assert len(key) > 50
        assert key not in entry
    assert len({key for key, _ in pairs}) == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--name", "a b"], "name"),
        (["--name", "a", "--max-concurrent", "0"], "max_concurrent"),
        (["--name", "a", "--range", "harmless"], "--range harmless: must be NAME=LOW:HIGH"),
        (["--name", "a", "--range", "harmless=x:"], "--range harmless=x:"),
        (["--name", "a", "--range", "harmless=2:1"], "ranges.harmless: must be"),
        (["--name", "a", "--range", "harmless=nan:1"], "ranges.harmless"),
        (["--name", "a", "--range", "harmless=:"], "ranges.harmless: bounds nothing"),
    ],
)
def test_what_no_entry_can_say_is_one_line_and_no_key(
    options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["key", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert "sk-genarm" not in err
    assert err.count("\n") == 1
