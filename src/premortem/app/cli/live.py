"""The live view of ``premortem run``: a bar that moves, and below it what the guard says as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from premortem.core.evidence import Record
from premortem.run.words import in_words

if TYPE_CHECKING:
    from types import TracebackType

    from premortem.run.job import Job, Moment

_EVERY = 5
_STYLES = {
    "opened": "bold red", "finding": "yellow", "verified": "cyan", "intent": "bold cyan", "recovered": "bold green",
    "closed": "bold green", "held": "green", "relapse": "red", "handed_over": "bold red", "escalated": "red",
    "fault": "magenta", "guard_fault": "red", "unwatched": "dim", "good": "dim", "outcome": "dim cyan",
}  # fmt: skip
_SIGNS = {
    "opened": "✖", "finding": "●", "verified": "↳", "intent": "▲", "recovered": "✔", "closed": "✔", "held": "✔",
    "fault": "⚡", "handed_over": "✋", "escalated": "✋", "good": "✓", "relapse": "↺",
}  # fmt: skip


class Live:
    """Use as a context manager; :meth:`watch` and :meth:`hear` are the audience of the job."""

    def __init__(self, console: Console, job: Job) -> None:
        self._console = console
        self._job = job
        self._progress = Progress(
            TextColumn("[bold]{task.description:>9}"), BarColumn(32),
            TextColumn("{task.completed:>3.0f}/{task.total:.0f}"),
            TextColumn("loss [bold]{task.fields[loss]:<8}[/] grad norm {task.fields[norm]:<8}"), TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"), console=console, refresh_per_second=8, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._state = "[green]watching[/]"
        self._good = 0
        self._has_begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _begin(self) -> None:
        """Only when something happens: a mistake in the command is told alone."""
        if self._has_begun:
            return
        self._has_begun = True
        told = {"none": "no fault", "poison": "a poisoned batch at step 200"}.get(
            self._job.fault, "the learning rate × 100 at step 200"
        )
        self._console.print(
            "[bold]premortem[/] trains a small language model on the Python standard library's text; "
            f"on the way: [magenta]{told}[/].", soft_wrap=True,
        )  # fmt: skip
        self._progress.start()

    def watch(self, moment: Moment) -> None:
        """One tick of an arm."""
        self._begin()
        if moment.arm not in self._tasks:
            self._tasks[moment.arm] = self._progress.add_task(
                moment.arm, total=moment.num_steps, loss="", norm="", state=""
            )
            if not self._console.is_terminal:
                self._console.print(f"  {moment.arm} run: {moment.num_steps} steps", style="dim")
        if moment.tick % _EVERY == 0 or moment.step >= moment.num_steps:
            state = self._state if moment.arm == "guarded" else "[dim]no guard[/]"
            self._progress.update(
                self._tasks[moment.arm], completed=moment.step, loss=f"{moment.loss:.4g}",
                norm="" if moment.grad_norm is None else f"{moment.grad_norm:.4g}", state=state,
            )  # fmt: skip
        if not self._console.is_terminal and moment.tick % 100 == 0:
            self._console.print(f"  {moment.arm} step {moment.step}: loss {moment.loss:.4g}", style="dim")

    def hear(self, record: Record) -> None:
        """One record of the guard's."""
        self._begin()
        self._follow(record)
        words = in_words(record)
        if not words or self._is_small(record):
            return
        style, sign = _STYLES.get(record.event, ""), _SIGNS.get(record.event, "·")
        self._console.print(f"  {record.tick:>4}  {sign} {words}", style=style, markup=False, soft_wrap=True)

    def _is_small(self, record: Record) -> bool:
        """What would drown the rest: later good marks, GREEN again, rungs passed over."""
        if record.event == "good":
            self._good += 1
            return self._good > 1
        if record.event == "finding":
            return record.data.get("level") in ("GREEN", None)
        return record.event == "run" or record.data.get("verdict") == "passed over"

    def _follow(self, record: Record) -> None:
        if record.event == "intent" and record.data.get("verb") == "turn":
            self._state = f"[cyan]rung: {record.data.get('rung')}[/]"
        elif record.event == "verified" and record.data.get("verdict") == "helped":
            self._state = "[green]relapse watch[/]"
        elif record.event == "closed":
            self._state = f"[green]{record.data.get('verdict')}[/]"
        elif record.event == "handed_over":
            self._state = "[red]handed over[/]"
