"""``premortem infer``: answers puzzles over HTTP from a checkpoint, with a policy to fall back on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.core.errors import ConfigError

if TYPE_CHECKING:
    from premortem.run.serving import ServiceGuard
    from premortem.stages.serve.service import Fallback, Service, ServiceConfig

_LONGEST_GRACE_S = 600.0


def infer(  # noqa: PLR0913 - the options of a command
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Checkpoints, one for each task.")],
    *,
    task: Annotated[str | None, typer.Option(help="Insist that the checkpoint is of this task: sudoku, maze.")] = None,
    fallback: Annotated[
        Path | None, typer.Option(metavar="POLICY", help="A policy that can stand in, for mazes.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused with 429.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds allowed for an answer where the client names none.")] = 2.0,
    silent: Annotated[
        float, typer.Option(help="Seconds without a word after which a worker that owes an answer is replaced.")
    ] = 10.0,
    grace: Annotated[float, typer.Option(help="Seconds to finish accepted work after SIGTERM; at most 600.")] = 10.0,
    register: Annotated[str, typer.Option(help="Guards the service by this register: a name, or a file.")] = "hrm",
    no_guard: Annotated[bool, typer.Option("--no-guard", help="Serve unguarded.")] = False,
) -> None:
    """Serve HRM inference over HTTP until SIGTERM: /v1/solve/{task}, /v1/models, /healthz, /readyz, /metrics."""
    try:
        from premortem.stages.serve.service import ServiceConfig
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}; install premortem[serve]") from error

    config = ServiceConfig(queue=queue, timeout_s=timeout, silent_s=silent)
    if not 0 <= grace <= _LONGEST_GRACE_S:
        raise ConfigError(f"--grace: found {grace:g}, expected 0 to {_LONGEST_GRACE_S:g} seconds")
    for bundle in bundles:
        if not bundle.is_dir():
            raise ConfigError(f"{bundle}: found no checkpoint there, expected the folder of a bundle, such as "
                              "runs/step-00001200")  # fmt: skip
    _require_task(bundles, task)
    _run(bundles, config, _fallbacks(fallback), (host, port, grace), None if no_guard else _guard(register))


def _require_task(bundles: list[Path], task: str | None) -> None:
    from premortem.stages.train.hrm.card import read_card

    if task is None:
        return
    found = {read_card(bundle).task for bundle in bundles}
    if found != {task}:
        raise ConfigError(f"--task {task}: the checkpoint is of {', '.join(sorted(found))}; name that, or another one")


def _fallbacks(policy: Path | None) -> dict[str, Fallback]:
    from premortem.stages.serve.service import MazeWalks

    return {} if policy is None else {"maze": MazeWalks.load(policy)}


def _guard(register: str) -> ServiceGuard:
    from premortem.ledger.location import ledger_path
    from premortem.run.guard import Guard
    from premortem.run.serving import ServiceGuard

    ledger = ledger_path()
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"ledger {ledger}: its folder cannot be made ({error.strerror}); point PREMORTEM_LEDGER elsewhere, or "
            "serve with --no-guard"
        ) from error
    return ServiceGuard(Guard(register), ledger, say=lambda what: typer.echo(what, err=True))


def _run(
    bundles: list[Path],
    config: ServiceConfig,
    fallbacks: dict[str, Fallback],
    place: tuple[str, int, float],
    guard: ServiceGuard | None,
) -> None:
    from premortem.stages.serve.service import Service

    try:
        from premortem.stages.serve.service.server import listen, run, serve
    except ImportError as error:
        raise ConfigError(f"serving over HTTP needs {error.name}; install premortem[serve]") from error
    host, port, grace_s = place
    service, began = Service(bundles, config, fallbacks=fallbacks, on_start=[guard] if guard else []), time.monotonic()
    try:
        with listen(host, port) as line:
            name = f"[{host}]" if ":" in host else host
            typer.echo(f"listening on http://{name}:{line.getsockname()[1]}; a worker is warming up")
            run(serve(service, line, grace_s=grace_s, on_ready=lambda: _say_ready(service, began)))
    finally:
        if guard is not None:
            guard.close()
    typer.echo(_account(service))


def _say_ready(service: Service, began: float) -> None:
    served = ", ".join(f"{model.task} {model.size} by {model.version}" for model in service.crew.models.values())
    typer.echo(f"ready after {time.monotonic() - began:.1f} s: {served}; stop with SIGTERM or Ctrl-C")


def _account(service: Service) -> str:
    counts = service.book.counts
    broken, refused = sum(counts.broken.values()), sum(counts.refused.values())
    return (
        f"accepted {counts.accepted}, answered {sum(counts.answered.values())}, refused after acceptance {broken}, "
        f"withdrawn {counts.withdrawn}; refused at the door {refused}"
    )
