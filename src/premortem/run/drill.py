"""Runs drills: for each entry, each case of its risks, each seed, four arms; then the rule gives its verdict.

Work is shared out over processes by (entry, seed); the two baselines of a seed serve all cases that build the
same run. Each process is warm before anything is timed, and computes with one thread, so arms are comparable.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from premortem.core.drill import Arm, Judgement, ProofVerdict, Seed, judge, recovery_at_least
from premortem.core.errors import BugError, ConfigError
from premortem.core.evidence import Plain, Record
from premortem.ledger.ledger import Ledger
from premortem.machine.parent import end_with_parent
from premortem.registers.load import load_all, load_register
from premortem.registers.schema import Entry
from premortem.run.discover import find_risk
from premortem.run.fingerprint import environment, fingerprint
from premortem.run.suggest import closest

if TYPE_CHECKING:
    from premortem.risks.case import Case

Progress = Callable[[str], None]
DRAFT = "DRAFT-"
"""How the ids of entries begin that are made on the spot, for risks that are drilled by their own id."""


@dataclass(frozen=True, slots=True)
class DrillRow:
    """One case of one entry over all seeds, with the figures of its worst seed."""

    entry: str
    risk: str
    case: str
    verdict: str
    seeds: int
    baseline: float
    unguarded: float
    guarded: float
    allowed: float
    detected_after: int | None
    rungs: tuple[str, ...]
    recovered_after: str | None
    recovered_in: int | None
    seconds: float
    recovery_at_least: float
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Plain]:
        """Plain data for ``--json`` and the ledger; what is not a number is ``null``."""
        plain = cast("dict[str, Plain]", asdict(self))
        for key, value in plain.items():
            if isinstance(value, tuple):
                plain[key] = [*value]
            elif isinstance(value, float) and value - value != 0.0:
                plain[key] = None
        return plain


@dataclass(frozen=True, slots=True)
class _Task:
    """One entry on one seed, over all of its risks."""

    register: str
    entry: str
    risks: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class _Done:
    """The four arms of each case, by (risk, case)."""

    task: _Task
    seeds: dict[tuple[str, str], Seed]


def find_entries(names: Sequence[str], register: str | None) -> list[tuple[str, Entry]]:
    """Entries by id from one register or all, with the register that holds each; all active ones when none named.

    Raises:
        ConfigError: an unknown entry, with the closest match; a planned one, whose mechanism does not exist.
    """
    files = load_all() if register is None else {register: load_register(register)}
    known = {e.id: (name, e) for name, file in files.items() for e in file.entries}
    if not names:
        return [(name, e) for name, e in known.values() if e.status == "active"]
    for name in names:
        if name not in known:
            where = register or "the registers"
            raise ConfigError(f"found the unknown entry {name!r}, expected one of {where}{closest(name, known)}")
        if known[name][1].status == "planned":
            raise ConfigError(f"{name} is planned: its mechanism does not exist yet, so there is nothing to drill")
    return [known[name] for name in names]


def run_drills(
    entries: Sequence[str],
    *,
    register: str | None,
    seeds: int,
    ledger: Ledger,
    progress: Progress,
) -> list[DrillRow]:
    """Drill the entries and write a proof for each; see :class:`DrillRow`.

    Raises:
        ConfigError: for an entry that is unknown or planned.
    """
    chosen = find_entries(entries, register)
    risks = {entry.id: tuple(use.risk for use in entry.risks) for _, entry in chosen}
    # the entry with the most risks first, so that no long task is left for one process at the end
    longest = sorted(chosen, key=lambda pair: -len(risks[pair[1].id]))
    tasks = [
        _Task(register or name, entry.id, risks[entry.id], seed) for name, entry in longest for seed in range(seeds)
    ]
    done = list(_all(tasks, progress))
    rows: list[DrillRow] = []
    for _, entry in chosen:
        mine = [row for risk in risks[entry.id] for row in _judged(entry.id, risk, done)]
        _write_proof(entry, risks[entry.id], mine, seeds, ledger)
        rows += mine
    return rows


def _all(tasks: list[_Task], progress: Progress) -> Iterator[_Done]:
    """Two processes at most: an arm is a training run, and a third would slow the others on a small machine."""
    workers = max(1, min(2, os.cpu_count() or 1, len(tasks)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_warm_up) as pool:
        waiting = [pool.submit(_run, task) for task in tasks]
        for future in as_completed(waiting):
            result = future.result()
            progress(f"{result.task.entry} seed {result.task.seed}: {len(result.seeds)} cases run")
            yield result


def _warm_up() -> None:
    end_with_parent()
    import torch

    torch.set_num_threads(1)


def _run(task: _Task) -> _Done:
    """All cases of one entry on one seed; in a process of its own, that runs each healthy arm once."""
    from premortem.run.arms import Arms

    found: dict[tuple[str, str], Seed] = {}
    home = Path(tempfile.mkdtemp(prefix="premortem-drill-"))
    try:
        arms = Arms(task.register, task.entry, task.seed, home)
        for risk in task.risks:
            for case in _cases(find_risk(risk, task.entry).drill_module(), task.entry):
                found[risk, case.name] = arms.run(case)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return _Done(task, found)


def _cases(module: ModuleType, entry: str) -> list[Case]:
    """The cases of this entry; all, where a risk is drilled by its own id, or by an entry that no case knows."""
    cases = getattr(module, "CASES", None)
    if not isinstance(cases, tuple):
        raise BugError(f"{module.__name__}: found no CASES, expected a tuple of cases")
    mine = [case for case in cases if not case.entries or entry in case.entries]
    return [*cases] if entry.startswith(DRAFT) or not mine else mine


def _judged(entry: str, risk: str, done: list[_Done]) -> Iterator[DrillRow]:
    mine = sorted((d for d in done if d.task.entry == entry), key=lambda d: d.task.seed)
    for case in _cases(find_risk(risk, entry).drill_module(), entry):
        seeds = [d.seeds[risk, case.name] for d in mine]
        seconds = sum(s.unguarded.seconds + s.guarded.seconds for s in seeds)
        yield _row(entry, risk, case.name, judge(seeds, case.bounds), len(seeds), seconds)


def _row(entry: str, risk: str, case: str, judgement: Judgement, count: int, seconds: float) -> DrillRow:
    worst = judgement.worst
    guarded: Arm = worst.guarded
    late = None
    if guarded.detected_at is not None and guarded.fault_at is not None:
        late = guarded.detected_at - guarded.fault_at
    proven = judgement.verdict is ProofVerdict.PROVEN
    return DrillRow(
        entry, risk, case, judgement.verdict.value, count, judgement.baseline, worst.unguarded.outcome,
        guarded.outcome, judgement.allowed, late, guarded.rungs, guarded.recovered_after, guarded.recovered_in,
        round(seconds, 1), round(recovery_at_least(count), 2) if proven else 0.0, judgement.failures,
        tuple(n for n in (worst.unguarded.note, guarded.note) if n),
    )  # fmt: skip


def _write_proof(entry: Entry, risks: tuple[str, ...], rows: list[DrillRow], seeds: int, ledger: Ledger) -> None:
    """An entry is proven when every case of every of its risks is; the worst verdict is the entry's."""
    packages = tuple(find_risk(risk, entry.id).package for risk in risks)
    print_of = fingerprint(entry, packages)
    verdicts = {row.verdict for row in rows}
    worst = next((v.value for v in reversed(ProofVerdict) if v.value in verdicts), "inconclusive")
    data: dict[str, Plain] = {
        "verdict": worst if rows else "inconclusive",
        "seeds": seeds,
        "fingerprint": print_of.digest,
        "policy": print_of.policy,
        "files": dict(print_of.files),
        "environment": dict(environment()),
        "cases": [row.to_json() for row in rows],
    }
    ledger.append(Record("proof", entry.id, None, 0, 0.0, data))
