import importlib
from pathlib import Path

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_five_hundred_corruptions_are_caught_and_the_last_good_bundle_always_loads(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table = importlib.import_module("checkpoint_soak").soak(tmp_path, 500, seed=1)
    assert len(table) == 13
    assert sum(caught for caught, _ in table.values()) == 500
    assert {kind: missed for kind, (_, missed) in table.items() if missed} == {}
