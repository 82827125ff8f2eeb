"""Real text with no download: the sources and docstrings of the Python that runs us.

The text differs between Python versions, so results carry :attr:`Corpus.sha256`.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from premortem.core.errors import ConfigError, StageError

Kind = Literal["docstring", "source"]
SKIPPED_FOLDERS = frozenset({"__pycache__", "dist-packages", "idlelib", "site-packages", "test", "tests"})


@dataclass(frozen=True, slots=True)
class Document:
    """One text; ``file`` is its path below the root; a file's source and docstrings share it."""

    file: str
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read or parsed, and the reason in words."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in a fixed order, and the files that failed.

    ``num_files_left_out`` counts the files that the size cap kept from being read.
    """

    documents: tuple[Document, ...]
    unreadable: tuple[Unreadable, ...] = ()
    num_files_left_out: int = 0

    @property
    def num_bytes(self) -> int:
        """Size of all texts in UTF-8 bytes."""
        return sum(len(document.text.encode()) for document in self.documents)

    @property
    def sha256(self) -> str:
        """Hex digest over files, kinds and texts in their order."""
        digest = hashlib.sha256()
        for document in self.documents:
            for part in (document.file, document.kind, document.text):
                encoded = part.encode()
                digest.update(len(encoded).to_bytes(8, "little"))
                digest.update(encoded)
        return digest.hexdigest()


def read_standard_library(
    *,
    max_bytes: int = 4_000_000,
    kinds: tuple[Kind, ...] = ("source", "docstring"),
    root: Path | None = None,
) -> Corpus:
    """Read ``*.py`` below ``root`` (default: this Python's standard library) in sorted order.

    The file that takes the corpus past ``max_bytes`` UTF-8 bytes is cut there, later ones are left out. Tests,
    idlelib and site-packages are skipped. Unreadable files are reported in the corpus, never dropped in silence.
    Raises ``ConfigError`` for a bad cap or kind, ``StageError`` when the folder is missing or gives no text.
    """
    if max_bytes < 1 or not kinds or set(kinds) - {"source", "docstring"}:
        raise ConfigError(
            f"max_bytes is {max_bytes}, kinds is {kinds} in read_standard_library: "
            "expected max_bytes >= 1 and kinds from 'source', 'docstring'"
        )
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = _python_files(root)
    documents: list[Document] = []
    unreadable: list[Unreadable] = []
    room, num_read = max_bytes, 0
    for file in files:
        if room <= 0:
            break
        num_read += 1
        try:
            found = list(_documents(root, file, kinds))
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            unreadable.append(Unreadable(file, f"{type(error).__name__}: {error}"))
            continue
        for document in found:
            documents += _cut(document, room)
            room -= len(document.text.encode())
    if not documents:
        raise StageError(
            f"no Python text below {root} within {max_bytes} bytes ({len(unreadable)} files unreadable): "
            "expected a standard library with sources; raise max_bytes or give root="
        )
    return Corpus(tuple(documents), tuple(unreadable), len(files) - num_read)


def _cut(document: Document, room_bytes: int) -> list[Document]:
    text = document.text.encode()[: max(0, room_bytes)].decode(errors="ignore")
    return [replace(document, text=text)] if text else []


def _python_files(root: Path) -> list[str]:
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        files += [Path(folder, name).relative_to(root).as_posix() for name in names if name.endswith(".py")]
    return sorted(files)


def _documents(root: Path, file: str, kinds: tuple[Kind, ...]) -> Iterator[Document]:
    with tokenize.open(root / file) as stream:  # honours the encoding cookie
        source = stream.read()
    source.encode()  # a lone surrogate would fail later, far from its file
    for kind in kinds:
        text = source if kind == "source" else "\n\n".join(_docstrings(source))
        if text:
            yield Document(file, kind, text)


def _docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
