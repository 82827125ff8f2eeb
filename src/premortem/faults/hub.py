"""A small hub of data sets on loopback: the part of the hub's HTTP interface that reading a set by its name needs.

`LocalHub(folder)` serves `folder/<owner>/<name>/…` (or `folder/<name>/…`) as data sets of one revision each. Covered:
`/api/datasets/<name>[/revision/<rev>][/tree/<rev>[/<path>]][/paths-info/<rev>]` and
`/datasets/<name>/resolve/<rev>/<file>`, with sizes, hashes and ETags as the real one gives them. Not covered:
writing, tokens, gated sets, chunked storage (xet), the viewer's service.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from premortem.faults.web import Answer, FileServer

_LARGE = (".parquet", ".arrow", ".gz", ".jsonl", ".csv")
"""Kept as large files there: known by SHA-256; the others by the hash of their git blob."""


class LocalHub(FileServer):
    """`with LocalHub(folder) as hub:` then set `HF_ENDPOINT=hub.url`, or give it as an endpoint."""

    def answer(self, path: str, body: bytes = b"") -> Answer | None:
        """The API's JSON, or a file of a set; None where the set or file is not there."""
        parts = [part for part in path.split("/") if part]
        if parts[:2] == ["api", "datasets"]:
            return self._api(parts[2:], body)
        if parts[:1] == ["datasets"] and "resolve" in parts:
            at = parts.index("resolve")
            return self._file("/".join(parts[1:at]), "/".join(parts[at + 2 :]))
        return None

    def commit(self, name: str) -> str:
        """The revision of a set: forty hex digits over its files."""
        told = "".join(f"{path}:{hashlib.sha256(body).hexdigest()}\n" for path, body in self._files(name).items())
        return hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()

    def _files(self, name: str) -> dict[str, bytes]:
        root = self.folder / name
        return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}

    def _api(self, parts: list[str], body: bytes) -> Answer | None:
        verb = next((part for part in ("revision", "tree", "paths-info") if part in parts), None)
        at = parts.index(verb) if verb else len(parts)
        name, rest = "/".join(parts[:at]), parts[at + 2 :]
        revision = parts[at + 1] if verb and len(parts) > at + 1 else "main"
        if not (self.folder / name).is_dir() or revision not in ("main", self.commit(name)):
            return _error("RepoNotFound" if verb != "tree" else "RevisionNotFound")
        if verb == "tree":
            return _json(self._tree(name, "/".join(rest)))
        if verb == "paths-info":
            wanted = json.loads(body)["paths"]
            return _json([self._described(path, data) for path, data in self._files(name).items() if path in wanted])
        return _json(self._info(name))

    def _info(self, name: str) -> dict[str, Any]:
        files = self._files(name)
        card: dict[str, Any] = {}
        if (text := files.get("README.md", b"").decode()).startswith("---"):
            card = yaml.safe_load(text.split("---")[1]) or {}
        siblings = [{"rfilename": path, **_hashes(path, data)} for path, data in files.items()]
        return {
            "id": name, "sha": self.commit(name), "private": False, "gated": False, "disabled": False, "tags": [],
            "downloads": 0, "likes": 0, "cardData": card, "siblings": siblings,
        }  # fmt: skip

    def _tree(self, name: str, under: str) -> list[dict[str, Any]]:
        files = self._files(name)
        folders = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
        rows: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        rows += [self._described(path, data) for path, data in files.items()]
        return [row for row in rows if not under or row["path"].startswith(f"{under}/")]

    def _described(self, path: str, data: bytes) -> dict[str, Any]:
        hashes = _hashes(path, data)
        row: dict[str, Any] = {"type": "file", "oid": hashes["blobId"], "size": len(data), "path": path}
        if "lfs" in hashes:
            lfs = hashes["lfs"]
            row["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        return row

    def _file(self, name: str, path: str) -> Answer | None:
        root = (self.folder / name).resolve()
        file = (root / path).resolve()
        if not file.is_relative_to(root) or not root.is_relative_to(self.folder.resolve()) or not file.is_file():
            return _error("EntryNotFound" if root.is_dir() else "RepoNotFound")
        data = file.read_bytes()
        hashes = _hashes(path, data)
        headers = {"X-Repo-Commit": self.commit(name), "ETag": f'"{hashes["blobId"]}"'}
        if "lfs" in hashes:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{hashes["lfs"]["sha256"]}"'}
        return Answer(data, headers=headers)


def _hashes(path: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    described: dict[str, Any] = {"size": len(data), "blobId": blob}
    if path.endswith(_LARGE):
        sha256 = hashlib.sha256(data).hexdigest()
        described["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
    return described


def _json(content: Any) -> Answer:
    return Answer(json.dumps(content).encode(), kind="application/json")


def _error(code: str) -> Answer:
    return Answer(b"{}", 404, kind="application/json", headers={"X-Error-Code": code})
