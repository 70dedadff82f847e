"""``make page``: builds the page with npm, and leaves in ``static`` from which sources it was built.

python -m server.playground.build
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from arm_models.demo.deployment import demo_deployment

FOLDER = Path(__file__).parent
STAMP = FOLDER / "static" / "sources.sha256"
DEMO = FOLDER / "source" / "demo.json"


def sources() -> list[Path]:
    """Every file that the built page depends on."""
    beside = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.js")
    written = (file for file in (FOLDER / "source").rglob("*") if file.is_file())
    return sorted([*written, *(FOLDER / name for name in beside)])


def digest() -> str:
    """SHA-256 over the names and contents of the sources."""
    total = hashlib.sha256()
    for file in sources():
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(FOLDER).as_posix()} {content}\n".encode())
    return total.hexdigest()


def demo_facts() -> str:
    """What the page knows of the demo: the id of its model and questions worth asking it."""
    demo = demo_deployment()
    return json.dumps({"model": demo.model_id, "prompts": demo.prompts}, indent=2) + "\n"


def main() -> int:
    """Builds; the exit code of what failed, else 0."""
    npm = shutil.which("npm")
    if npm is None:
        print("npm is needed to build the page (Debian: apt-get install npm)", file=sys.stderr)
        return 2
    DEMO.write_text(demo_facts(), encoding="utf-8")
    for command in ("ci", "run build"):
        done = subprocess.run([npm, *command.split()], cwd=FOLDER, check=False)
        if done.returncode != 0:
            return done.returncode
    STAMP.write_text(f"{digest()}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
