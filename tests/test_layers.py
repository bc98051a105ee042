"""Imports point down, and each door to the outside world has one keeper."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "astro_cli"
LAYERS = (
    ("__version__", "foundation"),
    ("domain",),
    ("airflow_api", "runtime", "deploy"),
    ("workflows",),
    ("app", "remote", "commands", "cli", "__main__"),
)
KEEPERS = {
    "docker": {"runtime/docker_api.py"},
    "httpx": {"airflow_api.py", "deploy/registry.py"},
    "kubernetes": {"deploy/kubernetes/cluster.py"},
    "websocket": {"deploy/kubernetes/cluster.py"},
    "subprocess": {"foundation/process.py", "runtime/standalone_postgres.py", "deploy/inside/janitor.py"},
    "typer": {"app.py", "cli.py"},
}


def imports_of(path: Path, *, for_types: bool) -> set[str]:
    """Modules that `path` imports; those for type checkers alone only with `for_types`."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING" and not for_types
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts]


def layer_of(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if module in names)


def test_every_module_has_a_layer_and_imports_only_from_its_own_or_a_lower_one():
    for path in modules():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports_of(path, for_types=True):
            package, _, rest = name.partition(".")
            if package == "astro_cli" and rest:
                other = rest.split(".")[0]
                assert layer_of(other) <= layer_of(own), f"{path.name} imports {name}"


def test_each_door_to_the_outside_has_one_keeper():
    for path in modules():
        where = path.relative_to(PACKAGE).as_posix()
        used = {name.split(".")[0] for name in imports_of(path, for_types=False)}
        for library, keepers in KEEPERS.items():
            allowed = where in keepers or (library == "typer" and where.startswith("commands/"))
            assert library not in used or allowed, f"{where} imports {library}"


def test_airflow_is_never_imported_by_the_cli():
    for path in modules():
        if path.parent.name != "inside":
            names = imports_of(path, for_types=False)
            assert not any(name.split(".")[0] == "airflow" for name in names), path
