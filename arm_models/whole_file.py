"""Files that are there whole or not at all: written beside their place and renamed."""

from pathlib import Path


def write_whole(file: Path, content: str | bytes) -> None:
    """Put ``content`` (text as UTF-8) in the place of ``file``; its folder is made where it is missing. Raises ``OSError``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".part")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(file)
