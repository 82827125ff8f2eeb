"""A git repository under guard, a day at a time: one request to a person is answered, the other is not.

python examples/git_delivery/main.py [--fault none] [--home FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from repository import Delivery, Repository

import premortem
from premortem.core.errors import StageError
from premortem.ledger.ledger import Ledger
from premortem.run.evidence import incidents
from premortem.run.watching import Standing

HERE = Path(__file__).parent
TESTS = "".join(f"def test_{n}() -> None:\n    assert {n} + 1 == {n + 1}\n\n\n" for n in range(6))


class Team:
    """People at work: each day some commits."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.repository = Repository(folder)
        self.day = 0
        for words in (["init", "-q", "-b", "main"], ["config", "user.name", "A"], ["config", "user.email", "a@b.c"]):
            self.git(*words)
        self.commit("first", {"work.py": "x = 1\n", "tests/test_work.py": TESTS})

    def git(self, *words: str) -> str:
        """One command, today."""
        return self.repository.git(*words, day=self.day)

    def commit(self, message: str, files: dict[str, str]) -> None:
        """Write files and commit them; says so where a hook refuses."""
        for name, text in files.items():
            path = self.repository.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        try:
            self.git("commit", "-q", "-m", message)
            print(f"  commit: {message.splitlines()[0]}")
        except StageError as error:
            print(f"  {error}")
            self.git("reset", "-q", "--hard")

    def work(self) -> None:
        """A change with its test."""
        extra = "".join(f"def test_day_{n}() -> None:\n    assert True\n\n\n" for n in range(1, self.day + 1))
        self.commit(f"day {self.day}", {f"day_{self.day}.py": "y = 2\n", "tests/test_days.py": extra})


def faults(team: Team) -> None:
    """What goes wrong, by day."""
    if team.day == 3:
        team.commit("make it green", {"tests/test_work.py": TESTS[: len(TESTS) // 2]})
    elif team.day == 4:
        team.commit("one more test less", {"tests/test_work.py": ""})
    elif team.day == 6:
        team.commit("the tests are back\n\nAnswers: author 1.1", {"tests/test_work.py": TESTS})
    elif team.day == 7:
        team.git("checkout", "-q", "-b", "big-change")
        team.commit("a big change", {"big.py": "z = 3\n"})
        team.git("checkout", "-q", "main")


def assess(team: Team, home: Path) -> Standing:
    """What a nightly job does: one assessment, in a guard that remembers all earlier ones."""
    guard = premortem.Guard(HERE / "register.yaml", risks=HERE / "risks")
    with guard.watching(Delivery(team.repository, home), home=home, say=say) as watch:
        if not watch.assess(team.repository.content(team.day), team.repository.measure(team.day)):
            print("  assessed before: this home has seen the same history on the same day")
        return watch.standing


def say(words: str) -> None:
    """Print what the guard says, without where its runs begin and end."""
    if ": run " not in words:
        print(f"  {words}")


def main() -> None:
    """Twenty days."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=("people", "none"), default="people")
    parser.add_argument("--home", type=Path, help="the folder of the ledger; a temporary one when left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = asked.home or Path(folder) / "home"
        team = Team(Path(folder) / "repository")
        for team.day in range(1, 21):
            print(f"day {team.day}:")
            team.work()
            if asked.fault != "none":
                faults(team)
            standing = assess(team, home)
            print("  go" if standing.is_healthy else "  NO-GO")
        ledger = Ledger.open(home / "ledger.db")
        for found in incidents(ledger):
            tried = ", ".join(f"{rung.rung}: {rung.verdict}" for rung in found.rungs)
            print(f"incident {found.number}: {found.verdict} ({tried})")
        ledger.close()


if __name__ == "__main__":
    main()
