"""A small JSON document that carries the hash of its own body: the manifest and every mark."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint.disk import open_regular

T = TypeVar("T")

_HEAD, _NECK, _TAIL = b'{"sha256":"', b'","body":', b"}\n"
_BODY = len(_HEAD) + 64 + len(_NECK)


def seal(document: object) -> bytes:
    """The document as JSON with the hash of its body; no byte of the result is outside the check."""
    body = msgspec.json.encode(document)
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _NECK + body + _TAIL


def unseal(raw: bytes, form: type[T], where: str) -> T:
    """Read what :func:`seal` wrote.

    Raises:
        StageError: when any byte was changed, or the document has another form.
    """
    body = raw[_BODY : -len(_TAIL)]
    digest = hashlib.sha256(body).hexdigest().encode()
    if raw != _HEAD + digest + _NECK + body + _TAIL:
        raise StageError(
            f"{where}: its bytes do not match its own hash, expected the document as it was written; "
            "it was changed or cut: use another bundle"
        )
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        raise StageError(f"{where}: {error}; expected the format of this version; use another bundle") from error


def read_sealed(path: Path, form: type[T]) -> T:
    """Read a sealed file.

    Raises:
        StageError: when it is missing, unreadable, changed, or of another form.
    """
    try:
        descriptor = open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise StageError(
            f"{path}: cannot be read ({error.strerror}), expected a sealed document; use another bundle"
        ) from error
    return unseal(raw, form, str(path))
