"""A file of keys holds keys, plain or hashed; whatever else it holds is one line that gives nothing away."""

import hashlib
from pathlib import Path

import pytest

from arm_models.errors import UserError
from server.access import KeyEntry, read_key_file

DIGEST = hashlib.sha256(b"sk-team").digest()
HASH = f"sha256:{DIGEST.hex()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def complaint(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_key_file(str(file))
    message = str(caught.value)
    assert message.startswith(f"api_key_file {file}: ")
    assert "\n" not in message
    return message


def test_plain_keys_are_lines(file: Path) -> None:
    file.write_text("# team\n\n sk-team \nsk-other\n")
    one, other = read_key_file(str(file))
    assert one == KeyEntry("line-3", DIGEST)
    assert (other.name, other.digest) == ("line-4", hashlib.sha256(b"sk-other").digest())
    assert (one.admin, one.max_concurrent, one.presets, dict(one.ranges)) == (False, None, None, {})


def test_a_plain_key_given_twice_is_one(file: Path) -> None:
    file.write_text("sk-team\nsk-team\n")
    assert len(read_key_file(str(file))) == 1


def test_declared_keys_say_what_they_may(file: Path) -> None:
    file.write_text(
        f"# ours\nkeys:\n- name: team\n  hash: {HASH}\n  admin: true\n  max_concurrent: 3\n  presets: [kind]\n"
        "  ranges: {harmless: [1.0, null]}\n"
        f"- {{name: other, hash: 'sha256:{'0' * 64}'}}\n"
    )
    team, other = read_key_file(str(file))
    assert team == KeyEntry("team", DIGEST, True, 3, frozenset({"kind"}), {"harmless": (1.0, None)})
    assert other == KeyEntry("other", bytes(32))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"# none yet\n", "holds no key"),
        (b"", "holds no key"),
        (b"\xff\xfe", "not UTF-8"),
        (b"keys: []\n", "keys"),
        (b"keys:\n", "keys"),
        (b"keys: [{name: a}]\n", "keys[0].hash: is missing"),
        (b"keys: [{name: a, hash: 'md5:0'}]\n", "keys[0].hash"),
        (b"keys: [{name: a b, hash: x}]\n", "keys[0].name"),
        (f"keys: [{{name: a, hash: {HASH}, max_concurrent: 0}}]\n".encode(), "keys[0].max_concurrent"),
        (f"keys: [{{name: a, hash: {HASH}, admin: 'yes'}}]\n".encode(), "keys[0].admin"),
        (f"keys: [{{name: a, hash: {HASH}, ranges: {{x: [2, 1]}}}}]\n".encode(), "keys[0].ranges.x: must be"),
        (f"keys: [{{name: a, hash: {HASH}, role: x}}]\n".encode(), "keys[0].role: unknown key"),
        (
            f"keys: [{{name: a, hash: {HASH}}}, {{name: b, hash: {HASH}}}]\n".encode(),
            "'a' and 'b' are the same key",
        ),
        (
            f"keys: [{{name: a, hash: {HASH}}}, {{name: a, hash: 'sha256:{'0' * 64}'}}]\n".encode(),
            "name 'a' is used twice",
        ),
        (b"keys: 1\nother: 2\n", "keys"),
    ],
)
def test_what_is_wrong_is_named(file: Path, content: bytes, named: str) -> None:
    file.write_bytes(content)
    assert named in complaint(file)


@pytest.mark.parametrize(
    "content",
    [
        "keys: [sk-secret\n",
        "keys:\n- sk-secret: [\n",
        "keys:\n  sk-secret: 1\n  sk-secret: 2\n",
        "keys: [2001-13-45]\nx: sk-secret\n",
        "keys: [{name: a, hash: sk-secret}]\n",
        "kyes:\n- sk-secret x\n",
    ],
)
def test_a_complaint_quotes_nothing_of_the_file(file: Path, content: str) -> None:
    file.write_text(content)
    assert "sk-secret" not in complaint(file)


def test_a_misspelt_declaration_is_no_list_of_keys_to_guess(file: Path) -> None:
    file.write_text(f"key:\n- name: team\n  hash: {HASH}\n")
    assert "line 2: a key is printable ASCII without spaces" in complaint(file)


def test_a_missing_file_is_named(file: Path) -> None:
    assert "cannot be read: No such file" in complaint(file)
