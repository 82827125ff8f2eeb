"""Which column of a log is which signal: by known names, or as the user says. Nothing is dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from premortem.core.errors import ConfigError
from premortem.run.suggest import closest

STEP, TIME, RATE = "step", "time", "learning rate"
"""Roles that are no signals: where a row stands, when it was written, and what only people read."""

_NAMES: dict[str, str] = {
    "loss": "loss train_loss training_loss loss_train train_loss_step train_batch_loss batch_loss lm_loss "
    "train_lm_loss nll_loss train_nll_loss ce_loss train_ce_loss train_cross_entropy cross_entropy train_loss_epoch",
    "grad_norm": "grad_norm gradient_norm train_grad_norm train_gradient_norm global_grad_norm grad_norm_total "
    "total_grad_norm total_norm optim_total_grad_norm train_global_grad_norm gnorm train_gnorm",
    "step_time": "step_time step_time_s iter_time train_step_time iteration_time iter_time_ms step_time_ms",
    "skipped": "skipped skipped_step step_skipped found_inf overflow train_overflow",
    STEP: "step global_step train_global_step trainer_global_step iteration iter iterations train_step "
    "train_iteration num_updates update optimizer_step steps",
    TIME: "time timestamp wall_time walltime elapsed elapsed_time runtime train_runtime train_time seconds "
    "relative_time time_ms train_time_ms elapsed_ms timestamp_ms date datetime",
    RATE: "lr learning_rate train_lr train_learning_rate lr_0 optim_learning_rate optim_learning_rate_group0 lr_adamw",
}
_SEPARATORS = re.compile(r"[\s/.:_-]+")


def normal(name: str) -> str:
    """A name without case and separators: ``Train/Grad Norm`` is ``train_grad_norm``."""
    return _SEPARATORS.sub("_", name.strip().lower()).strip("_")


@dataclass(slots=True)
class Columns:
    """What a log's columns mean.

    Attributes:
        signals: column → signal, in the log's order.
        step, time, rate: columns of these roles; empty where there is none.
        unread: columns that nothing reads, in the log's order.
        notes: what a person should know of the choice.
    """

    known: Mapping[str, tuple[str, int]]
    signals: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def step(self) -> str:
        """The column of the step."""
        return self.roles.get(STEP, "")

    @property
    def time(self) -> str:
        """The column of the time."""
        return self.roles.get(TIME, "")

    def late(self, name: str) -> str:
        """A column that first shows in mid-log: its signal where no other column has it, else it stays unread."""
        role, _ = self.known.get(normal(name), ("", 0))
        if role and role not in (STEP, TIME, RATE) and role not in self.signals.values():
            self.signals[name] = role
            return role
        self.unread.append(name)
        return ""


def resolve(names: Sequence[str], given: Mapping[str, str], signals: Collection[str]) -> Columns:
    """Give each column its signal or role: the user's word first, then known names, best known first.

    Raises:
        ConfigError: a name that the log or the workload does not have; two columns that differ only in case or
            separators; no training loss.
    """
    _refuse_unknown(names, given, signals)
    columns = Columns(_known(signals))
    taken = {role: name for name, role in given.items()}
    best: dict[str, tuple[int, str]] = {}
    for name in names:
        role, rank = columns.known.get(normal(name), ("", 0))
        if not role or name in given or role in taken:
            continue
        if role in best and best[role][0] == rank:
            _ambiguous(best[role][1], name, role)
        if role not in best or rank < best[role][0]:
            best[role] = (rank, name)
    chosen = {name: role for role, (_, name) in best.items()} | dict(given)
    for name in names:
        _assign(columns, name, chosen.get(name, ""))
    if "loss" not in columns.signals.values():
        raise ConfigError(
            f"found the columns {_listed(names)} and no training loss among them, expected one such as 'loss' or "
            "'train/loss'; name it with --columns NAME=loss"
        )
    return columns


def _assign(columns: Columns, name: str, role: str) -> None:
    if role in (STEP, TIME, RATE):
        columns.roles[role] = name
    elif role:
        columns.signals[name] = role
    else:
        columns.unread.append(name)
        could, _ = columns.known.get(normal(name), ("", 0))
        if could:
            columns.notes.append(f"{name!r} could be the {could} too; --columns {name}={could} takes it")


def _known(signals: Collection[str]) -> dict[str, tuple[str, int]]:
    """Normal name → role and how well it is known; every signal is known by its own name first."""
    found: dict[str, tuple[str, int]] = {}
    for role, names in _NAMES.items():
        if role in signals or role in (STEP, TIME, RATE):
            found |= {name: (role, rank) for rank, name in enumerate(names.split())}
    return found | {normal(signal): (signal, -1) for signal in signals}


def _refuse_unknown(names: Sequence[str], given: Mapping[str, str], signals: Iterable[str]) -> None:
    roles = [*signals, STEP, TIME]
    for name, role in given.items():
        if name not in names:
            raise ConfigError(
                f"--columns {name}={role}: found no column {name!r} in the log, expected one of "
                f"{_listed(names)}{closest(name, names)}"
            )
        if role not in roles:
            raise ConfigError(
                f"--columns {name}={role}: found no signal {role!r}, expected one of "
                f"{', '.join(roles)}{closest(role, roles)}"
            )
    twice = [role for role in given.values() if [*given.values()].count(role) > 1]
    if twice:
        raise ConfigError(f"--columns: found {twice[0]!r} for two columns, expected it once; leave one out")


def _ambiguous(one: str, other: str, role: str) -> None:
    raise ConfigError(
        f"found {one!r} and {other!r}, both of which may be the {role}; choose with --columns {one!r}={role}"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return (shown or "none") + (f" and {len(names) - 20} more" if len(names) > 20 else "")
