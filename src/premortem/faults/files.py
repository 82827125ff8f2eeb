"""A file that rots, is cut short, or disappears, in place and by its real bytes.

Covered: files of any size; content, mode, links and modification time come back. The original waits in the
temporary folder (it needs as much room as the file): after SIGKILL, `restore_orphans()` or the next fault of
this kind puts it back.
Not covered: folders, device files, damage below the file system (page cache, disk sectors).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from abc import abstractmethod
from pathlib import Path

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence
from premortem.faults.owner import is_orphan, owned_name


def content_hash(path: Path) -> str | None:
    """SHA-256 of the bytes on disk, hex; None where there is no file."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def put_back(backup: Path, path: Path) -> None:
    """Copy content, mode and times of `backup` into `path`, in place: hard links and open files see it too."""
    with backup.open("rb") as source, path.open("r+b" if path.exists() else "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.truncate()
        target.flush()
        os.fsync(target.fileno())
    shutil.copystat(backup, path)


def restore_orphans() -> list[Path]:
    """Put back every file that a killed drill left damaged, unless it was rewritten since; returns their paths.

    Only notes of this very user count: anyone may write to the temporary folder.
    """
    restored = []
    for note in Path(tempfile.gettempdir()).glob("premortem-original-*/note.json"):
        if not is_orphan(note.parent.name, "original") or note.parent.stat().st_uid != os.geteuid():
            continue
        said = json.loads(note.read_text(encoding="utf-8"))
        path = Path(said["path"])
        if content_hash(path) == said["damaged_hash"] and path.parent.is_dir():
            put_back(note.with_name("content"), path)
            restored.append(path)
        shutil.rmtree(note.parent)
    return restored


class DamagedFile(Disturbance):
    """A file whose bytes change on enter and return on exit.

    What the workload itself wrote meanwhile (a repair) is never overwritten by the old bytes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._original_hash: str | None = None
        self._damaged_hash: str | None = None
        self._damaged_inode: int | None = None
        self._damage_done = False
        self._backup: Path | None = None
        self._seen: Evidence | None = None

    @abstractmethod
    def _damage(self) -> str:
        """Change the file; returns one line that says what was done."""

    def _apply(self) -> None:
        restore_orphans()
        if not self.path.is_file() or self.path.stat().st_size == 0:
            raise ConfigError(f"{self.name}: {self.path} is not a file with content; name an existing one")
        self._original_hash, self._seen, self._damage_done = content_hash(self.path), None, False
        folder = Path(tempfile.mkdtemp(prefix=owned_name("original") + "-"))
        self._backup = folder / "content"
        shutil.copy2(self.path, self._backup)
        if content_hash(self._backup) != self._original_hash:
            raise OSError(f"{self.path} changed while it was copied")
        self._damaged_inode = self.path.stat().st_ino
        done = self._damage()
        self._damaged_hash, self._damage_done = content_hash(self.path), True
        note = {"path": str(self.path.absolute()), "damaged_hash": self._damaged_hash}
        self._backup.with_name("note.json").write_text(json.dumps(note), encoding="utf-8")
        if self._damaged_hash != self._original_hash:
            self._seen = Evidence(True, f"{self.path}: {done}; hash was {self._brief()}")

    def _brief(self) -> str:
        return f"{(self._original_hash or 'none')[:12]}, is {(content_hash(self.path) or 'no file')[:12]}"

    def _is_rewritten(self) -> bool:
        """Whether the workload has put other content at this path since the damage was complete."""
        now = content_hash(self.path)
        return self._damage_done and now is not None and now != self._damaged_hash

    def _undo(self) -> None:
        if self._backup is None:
            return
        if content_hash(self.path) != self._original_hash and not self._is_rewritten():
            self._put_back(self._backup)
            if content_hash(self.path) != self._original_hash:
                raise OSError(f"{self.path} is not its original after restoring; that lies at {self._backup}")
        shutil.rmtree(self._backup.parent)
        self._backup = None

    def _put_back(self, backup: Path) -> None:
        put_back(backup, self.path)

    def observed(self) -> Evidence:
        """Whether the bytes on disk hashed differently, read back after the damage."""
        if self._seen is not None:
            return self._seen
        if self._original_hash is None:
            return Evidence(None, f"{self.path}: never entered")
        return Evidence(False, f"{self.path}: the content never changed")

    def gone(self) -> Evidence:
        """Whether the bytes hash as before, or the workload put a new file there (None: the same inode)."""
        if self._original_hash is None:
            return Evidence(None, f"{self.path}: never entered, no original known")
        now = content_hash(self.path)
        if now == self._original_hash:
            return Evidence(True, f"{self.path}: original content, {now[:12]}")
        if now is None or now == self._damaged_hash:
            return Evidence(False, f"{self.path}: still damaged; hash was {self._brief()}")
        if self._damaged_hash is None or self.path.stat().st_ino != self._damaged_inode:
            return Evidence(True, f"{self.path}: replaced by a new file meanwhile, left as it is")
        return Evidence(None, f"{self.path}: rewritten in place meanwhile, cannot be compared; {self._brief()}")


class BitFlip(DamagedFile):
    """One bit of one byte, chosen by the seed, is inverted in place: silent rot."""

    name = "bit flip"

    def __init__(self, path: str | os.PathLike[str], seed: int) -> None:
        super().__init__(path)
        self.seed = seed

    def _damage(self) -> str:
        rng = random.Random(self.seed)
        offset, bit = rng.randrange(self.path.stat().st_size), rng.randrange(8)
        with self.path.open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ (1 << bit)]))
        return f"bit {bit} of byte {offset} flipped"


class Truncation(DamagedFile):
    """The file keeps only its first `keep` share (0 <= keep < 1): a write that was cut off."""

    name = "truncation"

    def __init__(self, path: str | os.PathLike[str], keep: float = 0.5) -> None:
        super().__init__(path)
        if not 0 <= keep < 1:
            raise ConfigError(f"truncation: keep is {keep}, expected a share in [0, 1)")
        self.keep = keep

    def _damage(self) -> str:
        size = self.path.stat().st_size
        os.truncate(self.path, int(size * self.keep))
        return f"cut from {size} to {int(size * self.keep)} bytes"


class MissingFile(DamagedFile):
    """The file is away: deleted, or on a volume that did not mount. Hard links to it are not restored."""

    name = "missing file"

    def _damage(self) -> str:
        self.path.unlink()
        return "removed"
