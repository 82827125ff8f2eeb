"""What a proof is tied to: the resolved policy and the code that it tested (kernel decision 10).

The code's hash covers the comment-free source of the static import closure of ``risk.py`` and ``drill.py``
inside premortem. No commit id: a proof survives a commit that changes nothing of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from premortem.registers.schema import Entry


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One hash for the policy, one for each file of the code."""

    policy: str
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """All of it as one hash."""
        return _hash(json.dumps([self.policy, self.files], sort_keys=True))

    def changed_since(self, policy: str, files: dict[str, str]) -> list[str]:
        """What makes an older proof stale, by name."""
        changed = ["the entry's policy"] if policy != self.policy else []
        names = sorted(set(files) | set(self.files))
        return changed + [name for name in names if files.get(name) != self.files.get(name)]


_ROOT = Path(__file__).parents[1]
_ALWAYS = (
    "core.engine",
    "core.drill",
    "run.driver",
    "run.training",
    "run.arms",
    "run.ticking",
    "run.watcher",
    "run.drill",
)
"""What every proof rests on: the kernel, the driver, and what runs and judges the arms."""


def fingerprint(entry: Entry, packages: tuple[str, ...]) -> Fingerprint:
    """Of an entry and the packages of its risks."""
    files: dict[str, str] = {}
    waiting = [f"{package}.{page}" for package in packages for page in ("risk", "drill")]
    waiting += [f"premortem.{module}" for module in _ALWAYS]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _source(module)
        if path is not None:
            digest, imports = _read(path, module)
            files[module] = digest
            waiting.extend(imports)
    return Fingerprint(_hash(msgspec.json.encode(entry, order="sorted").decode()), files)


def environment() -> dict[str, str]:
    """The scope of a proof: recorded, not hashed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "os": f"{platform.system()} {platform.release()}"}
    found["machine"] = platform.machine()
    for package in ("torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source(module: str) -> Path | None:
    """Its file. Our own modules are found by their place: asking Python would import their packages, and torch."""
    own, _, rest = module.partition(".")
    if own == "premortem":
        place = _ROOT.joinpath(*rest.split(".")) if rest else _ROOT
        found = (place / "__init__.py", place.with_suffix(".py"))
        return next((path for path in found if path.is_file()), None)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin and origin.endswith(".py") else None


@cache
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of the source without comments, docstrings and layout; the project's own modules that it imports."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return _hash(ast.dump(tree)), tuple(_imports(tree, package))


def _imports(tree: ast.AST, package: str) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found.append(source)
            found += [f"{source}.{a.name}" for a in node.names]
    own = {"premortem", package.partition(".")[0]}
    return [name for name in found if name.partition(".")[0] in own]
