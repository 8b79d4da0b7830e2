"""Which of tlcompile's own modules a bundle carries, so that it runs where tlcompile is not installed.

Found by following `import tlcompile…` in the source, also inside functions, from the modules that a bundle starts with
and the backends that it ships. The files go in unchanged, under the same import paths.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import tlcompile

_ROOT = Path(tlcompile.__file__).parent
_START = ("tlcompile.runtime.command", "tlcompile.runtime.model", "tlcompile.compile")


def carry(backends: Iterable[str], folder: Path) -> None:
    """Copy what is needed to run engines of `backends` to `folder/tlcompile`.

    A backend of an installed third party is not carried: its distribution is in the requirements.
    """
    for module in needed(backends):
        source = _source(module)
        if source is not None:
            place = folder / "tlcompile" / source.relative_to(_ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)


def needed(backends: Iterable[str]) -> list[str]:
    """Names of all modules that the runtime and `backends` import from tlcompile, sorted."""
    waiting = [*_START, *(f"tlcompile.compile.{name}" for name in backends)]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        source = _source(module)
        if module in found or source is None:
            continue
        found.add(module)
        waiting.append(module.rpartition(".")[0] or module)  # importing a module imports its packages
        waiting.extend(_imports(module, source))
    return sorted(found)


def _source(module: str) -> Path | None:
    """The file of a module of tlcompile; None for another's module and for a name that is no module."""
    package, *rest = module.split(".")
    if package != "tlcompile":
        return None
    path = _ROOT.joinpath(*rest)
    return next((p for p in (path / "__init__.py", path.with_name(f"{path.name}.py")) if p.is_file()), None)


def _imports(module: str, source: Path) -> Iterator[str]:
    """Names that may be modules and that `module` imports; `from a import b` may import the module `a.b`."""
    package = module.split(".") if source.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)
