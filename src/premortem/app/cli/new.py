"""``premortem new STAGE/RISK``: the four files of a risk, which work as they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from premortem.app.cli.printing import Json, console, emit
from premortem.core.errors import ConfigError

_ID = re.compile(r"([a-z][a-z0-9]*(?:-[a-z0-9]+)*)/([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
_TEMPLATE = Path(__file__).with_name("template")
_RUNBOOK = """# {title}: runbook

## Signs
What a person sees, and where: `premortem incidents list` shows the incidents of the entry that uses this risk.

## First five minutes
1. `premortem incidents show N`: what was seen first, at which step, which rungs were tried, what each said.
2. Is the last good checkpoint there? `premortem report` names it.
3. Say here what to check next: the last change, the data, the disk.

## What the guard does
It cuts the learning rate, then restores the last good checkpoint; each rung is read back and verified.

## When it hands over
The run has stopped with its weights safe. Say here how to bring the workload back by hand. Then
`premortem incidents ack ENTRY` releases the latch, and `premortem incidents rebaseline` accepts a new normal.

## Afterwards
`premortem incidents postmortem N` drafts it from the evidence; `premortem drill {risk_id} --seeds 3` proves the mend.
"""


def new(
    risk: Annotated[str, typer.Argument(metavar="STAGE/RISK", help="Named for the failure: train/loss-jumps.")],
    *,
    into: Annotated[
        Path | None, typer.Option(help="The folder of a package with risks of your own; else premortem's own risks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a risk's four files: risk.py, drill.py, test_RISK.py, runbook.md. They work as they are."""
    stage, name = _split(risk)
    root, package = _home(into)
    folder = root / stage / name.replace("-", "_")
    files = _files(risk, f"{package}.{stage}.{folder.name}")
    written = _write(root, folder, files)
    if as_json:
        emit({"risk": risk, "folder": str(folder), "files": [str(path) for path in written], "package": package})
        return
    screen = console()
    for path in written:
        screen.print(f"written: {path}", markup=False, soft_wrap=True)
    now = f"\nNow: premortem explain {risk}; pytest {folder}; premortem drill {risk} --seeds 1"
    screen.print(now, markup=False, soft_wrap=True)
    if into is not None:
        screen.print(
            f'So that it is found, in your pyproject.toml:\n[project.entry-points."premortem.risks"]\n'
            f'{package.replace(".", "-")} = "{package}"\nor, in a script: premortem.Guard(REGISTER, risks="{into}")',
            markup=False, soft_wrap=True,
        )  # fmt: skip


def _split(risk: str) -> tuple[str, str]:
    match = _ID.fullmatch(risk)
    if match is None:
        raise ConfigError(
            f"found {risk!r}, expected STAGE/RISK in small letters, digits and hyphens, such as train/loss-jumps"
        )
    return match[1].replace("-", "_"), match[2]


def _home(into: Path | None) -> tuple[Path, str]:
    """The folder of the risks' package, and its dotted name, which is read from the folders above it."""
    if into is None:
        import premortem.risks

        return Path(premortem.risks.__path__[0]), "premortem.risks"
    from premortem.run.discover import package_of

    root = into.resolve()
    package, _ = package_of(root)
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigError(f"--into: {into} is no name for a Python package; use letters, digits and underscores")
    return root, package


def _files(risk: str, package: str) -> dict[str, str]:
    name = risk.partition("/")[2]
    title = name.replace("-", " ").capitalize()

    def own(file: str) -> str:
        text = (_TEMPLATE / file).read_text("utf-8").replace("premortem.app.cli.template", package)
        return _sorted_imports(text).replace("My risk", title).replace("my risk", title.lower())

    return {
        "__init__.py": f'"""{title}."""\n',
        "risk.py": own("risk.py"),
        "drill.py": own("drill.py"),
        f"test_{name.replace('-', '_')}.py": own("check.py"),
        "runbook.md": _RUNBOOK.format(title=title, risk_id=risk),
    }


def _sorted_imports(text: str) -> str:
    """The risk's own package has another place in the alphabet than the template's."""
    lines = text.splitlines(keepends=True)
    own = [i for i, line in enumerate(lines) if line.startswith("from premortem") or " import RISK, " in line]
    for i, line in zip(own, sorted(lines[i] for i in own), strict=True):
        lines[i] = line
    return "".join(lines)


def _write(root: Path, folder: Path, files: dict[str, str]) -> list[Path]:
    if folder.exists():
        raise ConfigError(f"{folder} is there already, expected a new risk; choose another name")
    try:
        folder.mkdir(parents=True)
        for package, words in (
            (root, "Risks of our own."),
            (folder.parent, f"Risks of the stage {folder.parent.name}."),
        ):
            start = package / "__init__.py"
            if not start.exists():
                start.write_text(f'"""{words}"""\n', "utf-8")
        for file, text in files.items():
            (folder / file).write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}), expected a writable folder; "
            "a package of your own is named by --into"
        ) from None
    return [folder / file for file in files if file != "__init__.py"]
