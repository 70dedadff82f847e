"""Who may import whom: the layers go one way, and models and engine live without the web."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WEB = ("fastapi", "starlette", "uvicorn", "pydantic", "sse_starlette", "prometheus_client")
WEB_SERVER = ("fastapi", "starlette", "uvicorn", "sse_starlette")
UPPER = ("server.app", "server.cli", "server.api", "server.serve_command", "server.evaluate_command")
UPPER += ("server.sweep_command", "server.compare_command", "server.evaluation", "server.comparison")
UPPER += ("server.joining", "server.replicas", "server.deploy_command", "server.group")
LOWEST = (*UPPER, "server.bench", "server.runtime", "server.decoding", "server.engine", "arm_models")


def modules(folder: str) -> list[str]:
    """Every module of a package, or the one module that is a file."""
    at = ROOT / folder
    paths = sorted(at.rglob("*.py")) if at.is_dir() else [at.with_suffix(".py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names]


def imported(module: str) -> Iterator[str]:
    """The names a module imports when it runs, inside functions too; those for type checkers do not count."""
    at = ROOT.joinpath(*module.split("."))
    source = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
    pending: list[ast.AST] = [ast.parse(source.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: the rule below would not see it"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("arm_models", ("server",)),
        ("server/engine", (*UPPER, "server.bench", "server.runtime", "server.decoding", "server.text")),
        ("server/engine", ("server.config", "server.errors", "server.metrics")),
        ("server/decoding", (*UPPER, "server.bench", "server.runtime", "server.metrics", "server.text")),
        ("server/text", LOWEST),
        ("server/config", LOWEST),
        ("server/errors", LOWEST),
        ("server/fair_thread", (*LOWEST, "server.text", "server.structured")),
        ("server/metrics", LOWEST),
        ("server/tracing", LOWEST),
        ("server/doctor", ("server.app", "server.api", "server.cli", "server.serve_command")),
        (
            "server/access",
            (*LOWEST, "server.text", "server.structured", "server.metrics", "server.evaluation"),
        ),
        ("server/access", WEB_SERVER),
        ("server/group", ("server.app", "server.api", "server.cli", "server.serve_command", *WEB)),
        ("server/config", ("server.access", "server.errors", "server.metrics")),
        ("server/errors", ("server.access", "server.config", "server.metrics")),
        ("server/decoding", ("server.access",)),
        (
            "server/structured",
            (*UPPER, "server.bench", "server.runtime", "server.decoding", "server.metrics"),
        ),
        ("server/terminal", (*LOWEST, "server.text", "server.structured", "server.config", "server.errors")),
        ("server/playground", (*UPPER, "server.bench", "server.runtime", "server.decoding", "server.engine")),
        ("server/api", ("server.app", "server.cli", "server.serve_command", "server.evaluate_command")),
        ("server/api", ("server.bench", "server.terminal", "server.doctor", "server.replicas")),
        ("server/replicas", ("server.cli", "server.serve_command", "server.bench", "server.engine")),
        (
            "server/simulation",
            (
                *(name for name in LOWEST if name != "arm_models"),
                "server.text",
                "server.config",
                "torch",
                "transformers",
            ),
        ),
        ("server/simulation", (*WEB, "httpx")),
    ],
)
def test_imports_go_one_way(folder: str, forbidden: tuple[str, ...]) -> None:
    found = modules(folder)
    assert found
    against = [
        f"{module} imports {name}"
        for module in found
        for name in imported(module)
        if within(name, forbidden) and not within(name, ("arm_models.errors",))
    ]
    assert against == []


@pytest.mark.parametrize("folder", ["server/engine", "arm_models"])
def test_models_and_engine_need_no_web_package(folder: str) -> None:
    code = (
        "import sys\nfrom importlib import import_module\n"
        f"sys.modules.update(dict.fromkeys({WEB!r}))\n"  # None there makes an import fail
        f"for name in {modules(folder)!r}:\n    try:\n        import_module(name)\n"
        # The kernels for a GPU need what comes with PyTorch for one.
        "    except ModuleNotFoundError as error:\n        if error.name != 'triton':\n            raise\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["server/engine", "arm_models"])
def test_models_and_engine_import_no_web_package_later_either(folder: str) -> None:
    """Inside functions too. httpx is the hub's business, not ours; transformers itself cannot do without."""
    against = [
        f"{module} imports {name}"
        for module in modules(folder)
        for name in imported(module)
        if within(name, (*WEB, "httpx"))
    ]
    assert against == []


def test_a_gateway_needs_neither_models_nor_ray() -> None:
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'transformers', 'ray')))\n"
        "import server.replicas.gateway, server.replicas.quota, server.replicas.settings\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
