"""What is installed against what the package asks for; and whether what is installed agrees among itself."""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import platform
from collections.abc import Iterable, Iterator

from premortem.core.errors import ConfigError
from premortem.run.preflight.row import Asked, Row
from premortem.run.suggest import closest

_PACKAGE = "premortem"
_NAMED = 6


def rows(asked: Asked) -> Iterable[Row]:
    """Python, the package's own needs, its extras, and every conflict among the packages that these bring."""
    if importlib.util.find_spec("packaging") is None:
        return [Row("dependencies", "unknown", "the package that reads versions is missing", "packaging",
                    "pip install packaging")]  # fmt: skip
    try:
        about = metadata.metadata(_PACKAGE)
    except metadata.PackageNotFoundError:
        told = "premortem runs from a folder that was never installed"
        return [Row("dependencies", "unknown", told, "an installed package", "pip install premortem")]
    extras = about.get_all("Provides-Extra") or []
    for extra in asked.extras:
        if extra not in extras:
            raise ConfigError(f"--extra: found {extra!r}, expected one of {', '.join(extras)}{closest(extra, extras)}")
    return [_python(about["Requires-Python"]), *_extras(extras, asked.extras), _conflicts()]


def _python(wanted: str) -> Row:
    from packaging.specifiers import SpecifierSet

    fits = platform.python_version() in SpecifierSet(wanted)
    return Row("Python", "ok" if fits else "not ok", platform.python_version(), wanted)


def _extras(extras: list[str], asked: tuple[str, ...]) -> Iterator[Row]:
    """An extra that nobody asked for may be missing as a whole; what is there of it must fit all the same."""
    for extra in ("", *extras):
        missing, unfit, fine = _standing(extra)
        what = f"extra {extra}" if extra else "the package itself"
        found = "; ".join([*unfit, *(f"{name} is missing" for name in missing)]) or (
            ", ".join(fine) if len(fine) <= _NAMED else f"{len(fine)} packages"
        )
        do = f"pip install 'premortem[{extra}]'" if extra else "pip install premortem"
        if not missing and not unfit:
            yield Row(what, "ok", found, "installed, in a version that fits")
        elif not unfit and extra and extra not in asked:
            yield Row(what, "not asked", found, f"--extra {extra} asks for it", do)
        else:
            yield Row(what, "not ok", found, "installed, in a version that fits", do)


def _standing(extra: str) -> tuple[list[str], list[str], list[str]]:
    """Missing packages, those of an unfit version, and those that are fine."""
    missing, unfit, fine = [], [], []
    for name, specifier in sorted({*_needs(_PACKAGE, (extra,))}):
        version = _version(name)
        if version is None:
            missing.append(name)
        elif not _fits(version, specifier):
            unfit.append(f"{name} {version}, needs {specifier}")
        else:
            fine.append(f"{name} {version}")
    return missing, unfit, fine


def _conflicts() -> Row:
    """What each package that premortem can use asks of the others: a version that was put over another shows here."""
    seen, waiting, broken = set[str](), [_PACKAGE], list[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        # of its own package all extras, of others only what they cannot do without
        for other, specifier in _needs(name, _all_extras() if name == _PACKAGE else ("",)):
            version = _version(other)
            if version is None:
                broken += [f"{name} needs {other}, which is missing"] if name != _PACKAGE else []
                continue
            if not _fits(version, specifier) and name != _PACKAGE:
                broken.append(f"{name} needs {other} {specifier}, found {version}")
            waiting.append(other)
    what, expected = "packages among themselves", "no package asks for another version of one that is there"
    if broken:
        told = "; ".join(sorted(broken)[:5]) + (f"; and {len(broken) - 5} more" if len(broken) > 5 else "")
        return Row(what, "not ok", told, expected, "pip check; then install what fits")
    return Row(what, "ok", f"{len(seen)} packages agree", expected)


def _all_extras() -> tuple[str, ...]:
    return ("", *(metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []))


def _needs(name: str, extras: tuple[str, ...]) -> list[tuple[str, str]]:
    """(package, versions) that a package needs here, with these of its extras (``""``: none)."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        try:
            need = Requirement(text)
        except InvalidRequirement:
            continue
        marker = need.marker
        by_extra = marker is not None and "extra" in str(marker)
        chosen = [extra for extra in extras if bool(extra) == by_extra]
        if not chosen or (marker is not None and not any(marker.evaluate({"extra": extra}) for extra in chosen)):
            continue
        if need.name.lower() == _PACKAGE:  # an extra that is made of others
            found += _needs(_PACKAGE, tuple(need.extras))
        else:
            found.append((need.name, str(need.specifier)))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:
        return False
