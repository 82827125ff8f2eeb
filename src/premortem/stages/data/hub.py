"""Which files of a hub's set hold a configuration's split, and what each must hash to.

One request to the hub's API names every file with its size and hash. The split's files are those that the set's
card declares, else those whose path names the split, else those of the hub's own parquet export
(`refs/convert/parquet`), which is where sets live whose loading script no library runs any more.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from premortem.stages.data.fetch import Remote, Told, fetch_text
from premortem.stages.data.refusal import Refused
from premortem.stages.data.rows import FORMATS
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience

DEFAULT_ENDPOINT = "https://huggingface.co"
_EXPORT = "refs/convert/parquet"
_SAME = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}


def endpoint_of(mirror: Mirror) -> str:
    """The hub: the mirror's own, else `HF_ENDPOINT`, as its own libraries read it."""
    return (mirror.endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether the user forbade the hub: `HF_HUB_OFFLINE`, as its own libraries read it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _token_for(mirror: Mirror) -> str:
    return "" if mirror.endpoint else os.environ.get("HF_TOKEN", "")


def find_files(source: Source, mirror: Mirror, patience: Patience, told: Told) -> list[Remote]:
    """The files of the split, each with its hash, at one commit.

    Raises:
        Refused: as the network has it; `not there` where the set has no such configuration or split.
    """
    config = mirror.config or source.config
    info = _info(mirror, mirror.revision, patience, told)
    paths = _declared(info, config, source.split) or _named(info, config, source.split)
    if not paths:
        try:
            info = _info(mirror, _EXPORT, patience, told)
        except Refused as error:
            if error.symptom != "not there":
                raise
            raise Refused("not there", _what_is_there(info, mirror, config, source.split)) from error
        paths = _exported(info, config, source.split)
    if not paths:
        raise Refused("not there", _what_is_there(info, mirror, config, source.split))
    chosen = sorted(paths)[: source.max_files or None]
    return [_remote(info, mirror, path) for path in chosen]


def _info(mirror: Mirror, revision: str, patience: Patience, told: Told) -> dict[str, Any]:
    url = f"{endpoint_of(mirror)}/api/datasets/{quote(mirror.place)}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        info = json.loads(fetch_text(url, patience, told, _token_for(mirror)))
        if not (isinstance(info["sha"], str) and all(isinstance(s["rfilename"], str) for s in info["siblings"])):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise Refused("damaged", f"{url}: the answer is no description of a data set") from error
    return dict(info)


def _paths(info: dict[str, Any]) -> list[str]:
    """Files that can be read as rows."""
    names = [sibling["rfilename"] for sibling in info["siblings"]]
    return [name for name in names if name.removesuffix(".gz").lower().endswith(tuple(FORMATS))]


def _declared(info: dict[str, Any], config: str, split: str) -> list[str]:
    """By the card: `configs: [{config_name, data_files: [{split, path}]}]`, paths with wildcards."""
    card = info.get("cardData")
    configs = card.get("configs") if isinstance(card, dict) else None
    configs = [c for c in configs or [] if isinstance(c, dict)]
    mine = [c for c in configs if c.get("config_name", "default") == config]
    if not config:
        mine = [c for c in configs if c.get("default") or c.get("config_name") == "default"] or configs[:1]
    found: list[str] = []
    for one in mine[:1]:
        files = one.get("data_files")
        for row in files if isinstance(files, list) else [files]:
            of, globs = (row.get("split", "train"), row.get("path")) if isinstance(row, dict) else ("train", row)
            if of == split:
                found += _matching(_paths(info), globs, str(one.get("data_dir") or ""))
    return found


def _matching(paths: Sequence[str], globs: object, under: str) -> list[str]:
    wanted = [str(g) for g in (globs if isinstance(globs, list) else [globs]) if g]
    full = [f"{under.strip('/')}/{g}" if under else g for g in wanted]
    return [path for path in paths if any(fnmatch.fnmatchcase(path, glob.removeprefix("./")) for glob in full)]


def _named(info: dict[str, Any], config: str, split: str) -> list[str]:
    """By their paths, in the first format that has any."""
    paths = _paths(info)
    in_config = [path for path in paths if config and config in re.split(r"[/.]", path)]
    if config and not in_config:
        return []
    paths = in_config or paths
    words = "|".join(map(re.escape, _SAME.get(split, (split,))))
    mine = [path for path in paths if re.search(rf"(?:^|[/_.\-])(?:{words})(?:[/_.\-]|$)", path)]
    others = "|".join(word for same in _SAME.values() for word in same)
    if not mine and split == "train":
        mine = [path for path in paths if not re.search(rf"(?:^|[/_.\-])(?:{others})(?:[/_.\-]|$)", path)]
    for suffix in FORMATS:
        if of_one_form := [path for path in mine if path.removesuffix(".gz").lower().endswith(suffix)]:
            return of_one_form
    return []


def _exported(info: dict[str, Any], config: str, split: str) -> list[str]:
    """`<config>/<split>/0000.parquet`; a `partial-` split is only the beginning, and is not taken."""
    paths = _paths(info)
    configs = sorted({path.split("/")[0] for path in paths})
    chosen = config or ("default" if "default" in configs else configs[0] if len(configs) == 1 else "")
    return [path for path in paths if path.startswith(f"{chosen}/{split}/")]


def _what_is_there(info: dict[str, Any], mirror: Mirror, config: str, split: str) -> str:
    some = ", ".join(_paths(info)[:6]) or "no file that can be read as rows"
    return f"{mirror}: found no files of {config or 'the default configuration'}, split {split}; it has {some}"


def _remote(info: dict[str, Any], mirror: Mirror, path: str) -> Remote:
    sibling = next(s for s in info["siblings"] if s["rfilename"] == path)
    lfs = sibling.get("lfs") if isinstance(sibling.get("lfs"), dict) else {}
    url = f"{endpoint_of(mirror)}/datasets/{quote(mirror.place)}/resolve/{info['sha']}/{quote(path)}"
    size = sibling.get("size")
    if not lfs.get("sha256") and not sibling.get("blobId"):
        raise Refused("damaged", f"{url}: the hub names no hash for it")
    return Remote(
        url, path, str(lfs.get("sha256", "")), str(sibling.get("blobId") or "") if not lfs else "",
        size if isinstance(size, int) else None, _token_for(mirror),
    )  # fmt: skip
