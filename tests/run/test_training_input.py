"""What a user can get wrong: each mistake is one line of the right class, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from premortem import Guard
from premortem.core.errors import ConfigError, StageError
from premortem.core.evidence import Record
from premortem.core.signal import Signal
from premortem.faults.disk import FilledDisk, FullTmpfs
from premortem.faults.fault import NotPermitted
from premortem.faults.files import BitFlip
from premortem.run.guard import Options
from premortem.run.training import GuardedTraining
from premortem.stages.train.checkpoint import Shelf

MIB = 1024**2


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def guarded(model: nn.Module | None = None, **how: Any) -> GuardedTraining:
    model = model or net()
    optimizer = how.pop("optimizer", None) or torch.optim.Adam(model.parameters(), lr=1e-3)
    return Guard().training(model, optimizer, **how)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unknown_option_names_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"'save_evry'.*did you mean 'save_every'") as error:
        guarded(save_evry=3)
    one_line(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [("accumulate", 0), ("save_every", -1), ("keep", 0), ("probation", 0), ("max_norm", 0.0), ("max_norm", "1"),
     ("accumulate", 2.0), ("keep", True), ("intermediates", "*.tmp"), ("memory_budget_gb", 0), ("resume", "no")],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_with_what_was_expected(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"option {name}: found .*expected"):
        guarded(**{name: value})


def test_options_by_keyword_come_over_those_given() -> None:
    assert Options.of(Options(keep=5, save_every=3), {"save_every": 9}) == Options(keep=5, save_every=9)


def test_a_model_or_optimiser_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model of type function, expected a torch.nn.Module"):
        Guard().training(net, torch.optim.SGD(net().parameters()))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"optimizer of type NoneType, expected a torch.optim.Optimizer"):
        Guard().training(net(), None)  # type: ignore[arg-type]


def test_an_optimiser_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"over 2 parameters, none of them the model's"):
        guarded(net(), optimizer=torch.optim.SGD(net().parameters()))


def test_a_model_with_nothing_to_train_is_refused() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(ConfigError, match=r"2 parameters of Linear and none that requires a gradient"):
        guarded(model)


def gaps_of(run: GuardedTraining) -> list[str]:
    told: list[Record] = []
    run.driver.listen(told.append)
    with run:
        pass
    return [str(r.data["what"]) for r in told if r.event == "unwatched"]


def test_what_is_not_covered_is_reported(tmp_path: Path) -> None:
    model = nn.Sequential(net(), net())
    extra = nn.Parameter(torch.ones(1))
    some = torch.optim.Rprop([*model[0].parameters(), extra])
    gaps = " | ".join(gaps_of(guarded(model, optimizer=some)))
    assert "2 trainable parameters of the model are in no group of the optimizer" in gaps
    assert "1 parameters of the optimizer are not the model's" in gaps
    assert "Rprop does not use its learning rate at each step" in gaps
    assert "'cut the learning rate' is unavailable" in gaps
    assert "no folder for checkpoints" in gaps
    lbfgs = guarded(model, optimizer=torch.optim.LBFGS(model.parameters()), checkpoints=tmp_path)
    assert "LBFGS evaluates the loss itself" in " | ".join(gaps_of(lbfgs))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda m: m(torch.ones(2, 4)), r"loss of shape \(2, 1\), expected one number"),
        (lambda m: m(torch.ones(2, 4)).mean().item(), r"loss of type float, expected a scalar tensor"),
        (lambda m: m(torch.ones(2, 4)).mean().detach(), r"loss without a graph"),
    ],
)
def test_a_loss_that_is_none_is_refused_in_both_forms_and_the_run_goes_on(bad: Any, says: str) -> None:
    model = net()
    with guarded(model) as run:
        with pytest.raises(ConfigError, match=says) as error:
            run.step(bad(model))
        one_line(error)
        with pytest.raises(ConfigError, match=says):
            run.step(lambda m, batch: bad(m), None)
        assert run.step(model(torch.ones(2, 4)).mean()).applied  # type: ignore[union-attr]


def test_lbfgs_in_the_first_form_is_refused_and_works_in_the_second() -> None:
    model = net()
    with guarded(model, optimizer=torch.optim.LBFGS(model.parameters(), lr=0.1)) as run:
        with pytest.raises(ConfigError, match=r"call run.step\(loss_fn, batch\)"):
            run.step(model(torch.ones(2, 4)).mean())
        assert run.step(lambda m, b: m(b).square().mean(), torch.ones(2, 4)).applied  # type: ignore[union-attr]


@pytest.mark.parametrize("how", [{"accumulate": 2}, {"scaler": torch.amp.GradScaler("cpu")}])
def test_lbfgs_with_what_it_cannot_do_is_refused(how: dict[str, Any]) -> None:
    model = net()
    with pytest.raises(ConfigError, match="LBFGS"):
        guarded(model, optimizer=torch.optim.LBFGS(model.parameters()), **how)


def test_a_step_or_a_save_outside_the_with_block_is_refused() -> None:
    model = net()
    run = guarded(model)
    for call in (lambda: run.step(model(torch.ones(2, 4)).mean()), run.save):
        with pytest.raises(ConfigError, match=r"write 'with guard.training"):
            call()
    with run:
        pass
    with pytest.raises(ConfigError, match="the run is not open"):
        run.save()


def test_an_unknown_signal_names_those_declared() -> None:
    with guarded(signals=(Signal("accuracy"),)) as run:
        run.note("accuracy", 0.5)
        with pytest.raises(ConfigError, match=r"'acuracy', expected one of: accuracy"):
            run.note("acuracy", 0.5)


def test_state_without_its_two_methods_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"state\['counter'\]: found a int without state_dict"):
        guarded(state={"counter": 3})


def test_two_runs_in_one_folder_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    model = net()
    with guarded(model, checkpoints=tmp_path) as run:
        with pytest.raises(ConfigError, match=r"holds it already|is using it") as error, guarded(checkpoints=tmp_path):
            pass
        one_line(error)
        run.step(model(torch.ones(2, 4)).mean())
        run.save()
    with guarded(checkpoints=tmp_path) as again:
        assert again.step_number == 1


def test_two_processes_in_one_folder_are_refused(tmp_path: Path) -> None:
    other = (
        "import sys, torch, premortem; m = torch.nn.Linear(4, 1)\n"
        "try:\n"
        "    with premortem.Guard().training(m, torch.optim.SGD(m.parameters()), checkpoints=sys.argv[1]): pass\n"
        "except ValueError as error: print(error)\n"
    )
    with guarded(checkpoints=tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", other, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
        )
    assert f"process {os.getpid()}" in done.stdout
    assert "choose another folder" in done.stdout


def train(model: nn.Module, run: GuardedTraining, steps: int) -> None:
    for _ in range(steps):
        run.step((model(torch.ones(2, 4)) - 1).square().mean())


def test_an_unreadable_checkpoint_is_passed_over_with_one_line(tmp_path: Path) -> None:
    model = net()
    with guarded(model, checkpoints=tmp_path, save_every=2) as run:
        train(model, run, 4)
    newest = Shelf(tmp_path, own=False).latest()
    assert newest is not None
    with BitFlip(next(newest.path.glob("model*")), seed=1):
        with (
            pytest.warns(RuntimeWarning, match="a bundle was passed over") as told,
            guarded(checkpoints=tmp_path) as run,
        ):
            assert run.step_number == 2
        assert "\n" not in str(told[0].message)


def test_bundles_of_which_none_can_be_read_are_not_begun_over(tmp_path: Path) -> None:
    model = net()
    with guarded(model, checkpoints=tmp_path, save_every=2) as run:
        train(model, run, 2)
    newest = Shelf(tmp_path, own=False).latest()
    assert newest is not None
    with BitFlip(next(newest.path.glob("model*")), seed=1):
        with pytest.raises(StageError, match="1 bundles and none that serves") as error, guarded(checkpoints=tmp_path):
            pass
        one_line(error)
        with guarded(checkpoints=tmp_path, resume=False) as run:
            assert run.step_number == 0
    with guarded(checkpoints=tmp_path) as run:
        assert run.step_number == 2


def other(folder: Path) -> GuardedTraining:
    return guarded(nn.Linear(5, 1), checkpoints=folder)


def test_a_bundle_of_another_model_is_refused_with_its_part(tmp_path: Path) -> None:
    model = net()
    with guarded(model, checkpoints=tmp_path, save_every=2) as run:
        train(model, run, 2)
    with (
        pytest.raises(ConfigError, match="part 'model' does not fit") as error,
        guarded(nn.Linear(5, 1), checkpoints=tmp_path),
    ):
        pass
    one_line(error)


def test_a_companion_that_the_bundle_lacks_is_named(tmp_path: Path) -> None:
    model = net()
    with guarded(model, checkpoints=tmp_path, save_every=2) as run:
        train(model, run, 2)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with (
        pytest.raises(StageError, match="lacks scheduler"),
        guarded(model, optimizer=optimizer, scheduler=schedule, checkpoints=tmp_path),
    ):
        pass


def test_an_optimiser_without_state_resumes(tmp_path: Path) -> None:
    for expected in (0, 3):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with guarded(model, optimizer=optimizer, checkpoints=tmp_path, save_every=3) as run:
            assert run.step_number == expected
            train(model, run, 3)


def test_a_generator_has_no_position_and_that_is_said_once(tmp_path: Path) -> None:
    told: list[Record] = []
    model = net()
    run = guarded(model, checkpoints=tmp_path, save_every=2)
    run.driver.listen(told.append)
    with run:
        for _ in range(3):
            for batch in run.batches(torch.ones(2, 4) for _ in range(4)):
                run.step((model(batch) - 1).square().mean())
    said = [r for r in told if r.event == "unwatched" and "generator has no position" in str(r.data["what"])]
    assert len(said) == 1
    assert run.step_number == 12


class Stream(IterableDataset[Tensor]):
    """Can be read once."""

    def __init__(self) -> None:
        self.rows = iter(torch.ones(40, 4))

    def __iter__(self) -> Iterator[Tensor]:
        return self.rows


def test_an_iterable_data_set_goes_on_where_it_can_be_iterated_again_and_else_says_so(tmp_path: Path) -> None:
    model = net()
    with guarded(model, checkpoints=tmp_path, save_every=2) as run:
        for batch in run.batches(DataLoader(Stream(), 4)):
            run.step((model(batch) - 1).square().mean())
            if run.step_number == 4:
                break
    with guarded(checkpoints=tmp_path) as run:
        again = DataLoader(Stream(), 4)
        assert sum(1 for _ in run.batches(again)) == 6
    with guarded(checkpoints=tmp_path) as run:
        short = Stream()
        short.rows = iter(torch.ones(4, 4))
        with pytest.raises(StageError, match=r"ended after 1 batches.*the checkpoint's position is 4") as error:
            next(run.batches(DataLoader(short, 4)))
        one_line(error)
        assert run.step_number == 4


def test_other_data_at_resume_are_refused(tmp_path: Path) -> None:
    def loader(scale: float) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(64.0).view(16, 4) * scale), 2)

    model = net()
    with guarded(model, checkpoints=tmp_path, save_every=2) as run:
        for (x,) in run.batches(loader(0.01)):
            run.step((model(x) - 1).square().mean())
            if run.step_number == 4:
                break
    with guarded(checkpoints=tmp_path) as run, pytest.raises(StageError, match="data or order changed"):
        next(run.batches(loader(0.02)))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ckpt").write_text("")
    with pytest.raises((ConfigError, StageError), match="ckpt") as error:
        guarded(checkpoints=tmp_path / "ckpt")
    one_line(error)


def small_disk(size: int) -> FullTmpfs:
    return FullTmpfs(size, leave_bytes=None)


def test_a_full_disk_at_the_start_is_refused_in_one_line() -> None:
    try:
        with FullTmpfs(MIB) as place:
            with pytest.raises(StageError) as error, guarded(checkpoints=place.folder / "ckpt"):
                pass
            one_line(error)
    except NotPermitted as error:
        assert "mount" in str(error)  # noqa: PT017 - no rights to mount: said, not passed in silence


def test_a_disk_that_fills_in_mid_run_is_a_finding_and_the_run_goes_on(tmp_path: Path) -> None:
    told: list[Record] = []
    try:
        with small_disk(24 * MIB) as place:
            torch.manual_seed(0)
            model = nn.Linear(256, 256)
            run = Guard(entries=("DEF-1", "DEF-4"), ledger=tmp_path / "ledger.db").training(
                model, torch.optim.Adam(model.parameters()), checkpoints=place.folder, save_every=4
            )
            run.driver.listen(told.append)
            full = FilledDisk(place.folder, leave_bytes=MIB // 4)
            with run:
                for step in range(40):
                    if step == 20:
                        full.__enter__()
                    x = torch.randn(8, 256)
                    run.step((model(x) - x).square().mean())
                assert not run.stopped
                newest = run.keeping.shelf.find_loadable().bundle
                assert newest is not None
                assert newest.step == 20
                full.remove()
                run.save()
            assert run.keeping.shelf.find_loadable().bundle is not None
            newest = Shelf(place.folder, own=False).find_loadable().bundle
            assert newest is not None
            assert newest.step == 40
        assert any("a bundle was not saved" in str(r.data.get("what")) for r in told if r.event == "guard_fault")
    except NotPermitted as error:
        assert "mount" in str(error)  # noqa: PT017
