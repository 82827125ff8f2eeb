"""A sample of the sabotage campaign; ``benchmarks/sabotage.py`` runs all of it."""

from __future__ import annotations

import pytest

from premortem.run.sabotage.campaign import run_cells
from premortem.run.sabotage.cells import HOOKS, MUTANTS, controls, pairs, singles
from premortem.run.sabotage.stimulus import subjects
from premortem.run.sabotage.tally import tally
from premortem.run.sabotage.training import RealTrial


@pytest.fixture(scope="module")
def found():
    return subjects()[0]


def test_every_shipped_rung_recovers_the_fault_that_it_mends_when_nothing_is_broken(found):
    figures = tally(run_cells(controls(found)))
    assert figures.controls_recovered == figures.num_controls > 20
    assert figures.passes


def test_no_broken_part_makes_the_kernel_say_recovered_where_it_is_not(found):
    figures = tally(run_cells(singles(found)[::11]))
    assert figures.num_distinct > 100
    assert set(figures.by_way) == {f"{h} × {m}" for h in HOOKS for m in MUTANTS}
    assert figures.wrong_recovered == figures.wrong_hand_overs == figures.unfinished == ()


def test_no_pair_of_broken_parts_does_either(found):
    figures = tally(run_cells(pairs(found, 60, seed=1)))
    assert figures.wrong_recovered == figures.unfinished == ()


def test_the_campaign_has_a_thousand_distinct_cells_and_more(found):
    cells = [*singles(found), *pairs(found, 500)]
    assert len({c.name for c in cells}) == len(cells) >= 1000


def test_the_oracle_finds_a_lie_that_the_kernel_cannot_see(found):
    """Without a witness signal a control that lies is believed: the oracle must say so, or it proves nothing."""
    lies = [c for c in singles(found) if str(c.sabotages[0]) == "undo × false success" and "divergence" in c.name]
    assert tally(run_cells(lies[:6], witnessed=False)).wrong_recovered


@pytest.mark.parametrize(
    ("control", "hook", "mutant", "ended"),
    [
        ("max_norm", "none", "none", "recovered"),
        ("learning_rate", "action", "false success", "handed over"),
        ("learning_rate", "undo", "false success", "recovered (held)"),
        ("weights", "action", "raise", "handed over"),
    ],
)
def test_a_real_training_with_a_broken_control_is_never_wrongly_called_recovered(
    tmp_path, control, hook, mutant, ended
):
    trial = RealTrial(tmp_path, control, hook, mutant).go()
    assert trial.fault.observed().holds or trial.fault.gone().holds
    assert trial.wrong == []
    assert trial.ended == ended
