"""A git repository that is delivered from: what can be measured on it, what can be turned. Real git throughout."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

from premortem.core.errors import StageError
from premortem.core.signal import Signal
from premortem.parts.controls import HeldSetting, OneShotRequest

DAY = 86_400
HOOK = """#!/bin/sh
# put here by the guard: a commit may not take tests away
gone=$(git diff --cached -U0 | grep -c '^-.*def test_')
new=$(git diff --cached -U0 | grep -c '^+.*def test_')
[ "$gone" -le "$new" ] || { echo "refused: $gone tests removed, $new added" >&2; exit 1; }
"""


class Repository:
    """One repository with a branch `main`; knows nothing of risks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, *words: str, day: float = 0.0) -> str:
        """One git command on a day; its output. Raises StageError with git's own words."""
        when = f"{int(1_700_000_000 + day * DAY)} +0000"
        own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
               "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}  # fmt: skip
        # called from a hook, GIT_DIR would name that hook's repository and not this one
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(["git", *words], cwd=self.folder, env=plain | own, text=True, capture_output=True,
                              check=False)  # fmt: skip
        if done.returncode:
            raise StageError(f"git {words[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def content(self, day: float) -> str:
        """One hash for all that an assessment sees: every ref, and the day, as a branch grows old by itself."""
        return hashlib.sha256(f"{self.git('for-each-ref')}{day}".encode()).hexdigest()

    def measure(self, day: float) -> dict[str, float | None]:
        """One row, from the history as it is."""
        return {"tests_lost": self._tests_lost(), "test_share": self._test_share(), "branch_age": self._branch_age(day)}

    def _tests_lost(self) -> float:
        """Tests that `main` once had, by name, and has no more."""
        ever: set[str] = set()
        now: set[str] = set()
        for line in self.git("log", "--reverse", "--first-parent", "-p", "-U0", "main", "--", "tests").splitlines():
            if line[:1] in "+-" and "def test_" in line:
                name = line[1:].strip()
                ever.add(name)
                (now.add if line[0] == "+" else now.discard)(name)
        return float(len(ever - now))

    def _test_share(self) -> float | None:
        """Of the lines added in the last five commits, those in tests."""
        added = {True: 0, False: 0}
        for line in self.git("log", "-5", "--no-merges", "--numstat", "--format=", "main").splitlines():
            number, _, path = line.split("\t")
            added[path.startswith("tests/")] += int(number)
        return added[True] / sum(added.values()) if any(added.values()) else None

    def _branch_age(self, day: float) -> float:
        """Days since the oldest branch that is not merged left `main`."""
        branches = self.git("for-each-ref", "--no-merged", "main", "--format=%(refname)", "refs/heads").split()
        left = [self.git("show", "-s", "--format=%ct", self.git("merge-base", "main", b).strip()) for b in branches]
        return max((1_700_000_000 + day * DAY - int(when)) / DAY for when in left) if left else 0.0


class Delivery:
    """The repository as the guard sees it. A tick is an assessment."""

    kind = "repository"
    signals = (
        Signal("tests_lost", "tests"),
        Signal("test_share", "of added lines", higher_is_worse=False),
        Signal("branch_age", "days"),
    )

    def __init__(self, repository: Repository, home: Path) -> None:
        self._repository, self._home = repository, home
        self._hook = repository.folder / ".git" / "hooks" / "pre-commit"
        self.controls = {
            "commits": HeldSetting("any", self._protect, lambda: "keep tests" if self._hook.exists() else "any"),
            "author": self._request("author"),
            "owner": self._request("owner"),
            "release": HeldSetting("open", self._hold, self._release),
        }
        self.witnesses: dict[str, str] = {}
        self.conditions: dict[str, object] = {}

    def _request(self, of: str) -> OneShotRequest:
        """A request to a person: written down with a name; a commit on `main` that says the name is the answer."""
        asked = self._home / f"asked-{of}"

        def name() -> str:
            return f"{of} {asked.read_text().partition(' #')[2]}"

        def is_answered() -> bool:
            return f"Answers: {name()}\n" in self._repository.git("log", "main", "--format=%B")

        return OneShotRequest(lambda what: None, is_answered, asked)

    def _protect(self, value: float | str) -> None:
        if value == "keep tests":
            self._hook.parent.mkdir(exist_ok=True)
            self._hook.write_text(HOOK)
            self._hook.chmod(self._hook.stat().st_mode | stat.S_IXUSR)
        else:
            self._hook.unlink(missing_ok=True)

    def _hold(self, value: float | str) -> None:
        self._repository.git("config", "delivery.release", str(value))

    def _release(self) -> str:
        return self._repository.git("config", "--get", "--default", "open", "delivery.release").strip()
