"""Finds risks by folder and by entry point: adding one is a new folder, no edit elsewhere.

A folder that is no installed package is brought by ``Guard(..., risks=FOLDER)`` in a script, and for any command by
``PREMORTEM_RISKS``, which names one folder or several, as ``PATH`` does.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import premortem.risks
from premortem.core.errors import BugError, ConfigError
from premortem.core.risk import Risk
from premortem.run.suggest import closest

ENTRY_POINT = "premortem.risks"
VARIABLE = "PREMORTEM_RISKS"
_BROUGHT: dict[Path, str] = {}


@dataclass(frozen=True, slots=True)
class FoundRisk:
    """A risk's folder. ``id`` is the folder's name under its stage: ``train/storage-full``."""

    id: str
    package: str
    folder: Path

    def load(self) -> Risk[Any]:
        """Import its page; it needs neither torch nor numpy."""
        module = importlib.import_module(f"{self.package}.risk")
        risk = getattr(module, "RISK", None)
        if not isinstance(risk, Risk):
            raise BugError(f"{self.folder}/risk.py: found no RISK, expected RISK = Risk(...)")
        return risk

    def page(self) -> str:
        """The docstring of its page."""
        module = importlib.import_module(f"{self.package}.risk")
        return (module.__doc__ or "").strip()

    def drill_module(self) -> ModuleType:
        """Import its drill, with whatever heavy library its workload needs; ``ConfigError`` where it has none."""
        if not (self.folder / "drill.py").is_file():
            raise ConfigError(f"{self.folder}: found no drill.py, expected one with CASES; until then nothing about "
                              f"{self.id} can be proven")  # fmt: skip
        return importlib.import_module(f"{self.package}.drill")

    @property
    def runbook(self) -> Path:
        """The runbook's file."""
        return self.folder / "runbook.md"


@cache
def find_risks() -> dict[str, FoundRisk]:
    """Every risk by id, the box's own first; raises ``BugError`` where two folders claim one id."""
    found: dict[str, FoundRisk] = {}
    for package, root in _roots():
        for page in sorted(root.glob("*/*/risk.py")):
            stage, name = page.parent.parent.name, page.parent.name
            risk_id = f"{stage}/{name}".replace("_", "-")
            if risk_id in found:
                raise BugError(f"{page.parent}: the risk {risk_id} is already at {found[risk_id].folder}; rename one")
            found[risk_id] = FoundRisk(risk_id, f"{package}.{stage}.{name}", page.parent)
    return found


def find_risk(risk_id: str, where: str) -> FoundRisk:
    """One risk; raises ``ConfigError`` with the closest match for an unknown id."""
    found = find_risks()
    if risk_id not in found:
        raise ConfigError(
            f"{where}: found the unknown risk {risk_id!r}, expected one of {', '.join(sorted(found))}"
            f"{closest(risk_id, found)}"
        )
    return found[risk_id]


def bring_risks(folder: str | Path) -> None:
    """Find the risks of a folder too, for the rest of this process: ``<folder>/<stage>/<risk>/risk.py``.

    Raises:
        ConfigError: no risk in it; a name that no package can have, or that another package has; an id that is taken.
    """
    package, root = _package_at(folder)
    if root in _BROUGHT:
        return
    _BROUGHT[root] = package
    find_risks.cache_clear()
    try:
        find_risks()
    except BugError as error:
        del _BROUGHT[root]
        raise ConfigError(str(error)) from None


def _package_at(folder: str | Path) -> tuple[str, Path]:
    """The package that a folder with risks is, made importable; raises as :func:`bring_risks`."""
    root = Path(folder).resolve()
    if not any(root.glob("*/*/risk.py")):
        raise ConfigError(f"{folder}: found no risk, expected a folder with <stage>/<risk>/risk.py, as "
                          "`premortem new STAGE/RISK --into FOLDER` writes them")  # fmt: skip
    package, above = package_of(root)
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigError(f"{folder}: {package!r} is no name for a Python package; use letters, digits and underscores")
    if str(above) not in sys.path:
        sys.path.append(str(above))
    importlib.invalidate_caches()
    places = [Path(path).resolve() for path in importlib.import_module(package).__path__]
    if root not in places:
        raise ConfigError(f"{folder}: the package name {package!r} is taken by {places[0]}; rename one of the folders")
    return package, root


def package_of(root: Path) -> tuple[str, Path]:
    """A folder's dotted name, read from the packages above it, and the folder that the name begins in."""
    parts, above = [root.name], root.parent
    while (above / "__init__.py").is_file():
        parts.insert(0, above.name)
        above = above.parent
    return ".".join(parts), above


def _roots() -> list[tuple[str, Path]]:
    roots = [("premortem.risks", Path(path)) for path in premortem.risks.__path__]
    brought = {root: package for package, root in map(_package_at, filter(None, _named()))} | _BROUGHT
    roots += [(package, root) for root, package in brought.items()]
    for point in entry_points(group=ENTRY_POINT):
        package = importlib.import_module(point.value)
        roots.extend((point.value, Path(path)) for path in package.__path__)
    return roots


def _named() -> list[str]:
    return os.environ.get(VARIABLE, "").split(os.pathsep)
