"""The registers in the box hold what their sources say."""

import subprocess
import sys

import pytest

from premortem.core.clock import Duration
from premortem.registers.load import builtin_names, load_all
from premortem.registers.schema import Entry, Gate, RegisterFile

ALL = load_all()
ENTRIES = {entry.id: entry for register in ALL.values() for entry in register.entries}

# id: (severity, probability, owner, decision point); probability is a word or per cent, "" where the source is silent
UT = {
    "R001": ("high", "medium", "online learning", ""),
    "R002": ("medium", "medium", "inference", ""),
    "R003": ("medium", "medium", "meta-controller", "after the code audit (week 3, day 8)"),
    "R004": ("medium", "low", "QA", ""),
    "R005": ("medium", "low", "coordination", ""),
    "R006": ("low", "low", "infrastructure", ""),
    "R007": ("low", "low", "events", ""),
    "R008": ("low", "low", "database", ""),
    "R009": ("critical", "low", "data pipeline", ""),
    "R010": ("low", "low", "ML training", ""),
    "R011": ("low", "low", "infrastructure", ""),
}
AF = {
    "1.1": ("critical", 30), "1.2": ("high", 40), "1.3": ("high", 25), "1.4": ("high", 30),
    "2.1": ("high", 35), "2.2": ("high", 20), "2.3": ("medium", 40),
    "3.1": ("critical", 25), "3.2": ("high", 30), "3.3": ("critical", 35),
    "4.1": ("medium", 50), "4.2": ("critical", 20),
    "I.1": ("medium", 15), "I.2": ("critical", 25), "I.3": ("high", 30),
}  # fmt: skip
RZ = {
    "2.1": ("critical", 70, "distributed systems", "week 2"),
    "2.2": ("high", 40, "performance", "week 6"),
    "2.3": ("high", 45, "architecture", "week 8"),
    "2.4": ("high", 35, "performance", "week 4"),
    "2.5": ("medium", 40, "models", "week 10"),
    "2.6": ("medium", 35, "architecture", "week 12"),
    "2.7": ("medium", 60, "models", "week 10"),
    "2.8": ("critical", 40, "product", "month 1"),
    "3.1": ("critical", 25, "engineering lead", "week 1"),
    "3.2": ("high", 30, "distributed systems", "week 2"),
    "3.3": ("medium", 70, "engineering lead", "weekly"),
    "3.4": ("medium", 30, "DevOps", "week 1"),
    "4.1": ("medium", 80, "product", "quarterly"),
    "4.2": ("medium", 40, "product", "months 1 and 3"),
    "4.3": ("medium", 65, "models", "week 10"),
    "5.1": ("critical", 10, "engineering lead", "week 1"),
    "5.2": ("high", 35, "QA", "daily"),
}

# what the tables and the figures beside them name: entry, signal (its beginning), field, figure
THRESHOLDS = [
    ("HRM-9.1.1", "loss", "red", 10), ("HRM-9.1.1", "relative improvement", "yellow", 0.01),
    ("HRM-9.1.2", "resident", "red", 3.5), ("HRM-9.1.2", "resident", "target", 3.0),
    ("HRM-9.2.1", "inference time p50", "red", 30), ("HRM-9.2.1", "inference time p95", "red", 30),
    ("UT-R001", "fall of the Sharpe", "red", 30), ("UT-R001", "inference latency p95", "red", 2),
    ("UT-R001", "rise of the prediction variance", "red", 50), ("UT-R001", "learning rate", "critical", 1e-4),
    ("UT-R002", "inference_latency_ms", "target", 50), ("UT-R002", "inference_latency_ms", "red", 100),
    ("UT-R002", "inference_latency_ms", "critical", 200), ("UT-R003", "sum of the weights", "red", 1e-6),
    ("UT-R004", "total", "target", 85), ("UT-R004", "total", "red", 80), ("UT-R004", "total", "critical", 75),
    ("UT-R004", "coverage of the critical", "red", 95), ("UT-R004", "coverage of the core", "red", 85),
    ("UT-R004", "coverage of small", "yellow", 70), ("UT-R006", "device memory", "red", 100),
    ("UT-R008", "connection time", "red", 5), ("UT-R009", "Sharpe", "red", 3.0), ("UT-R009", "live", "red", 50),
    ("AF-1.1", "required data sets", "red", 14), ("AF-1.2", "spread of the mean halting", "red", 2.0),
    ("AF-1.2", "spread of memory", "red", 0.3), ("AF-1.2", "spread of inference", "red", 10),
    ("AF-1.3", "predicted", "red", 6), ("AF-1.3", "memory in use", "red", 90),
    ("AF-1.4", "slope", "red", 0.01), ("AF-1.4", "variance", "yellow", 0.001),
    ("AF-2.1", "mean pairwise", "yellow", 0.3), ("AF-2.1", "mean pairwise", "red", 0.25),
    ("AF-2.2", "variance", "yellow", 1e-8), ("AF-2.3", "time to rate", "red", 60),
    ("AF-2.3", "time of a generation", "red", 10), ("AF-2.3", "expected", "target", 90),
    ("AF-2.3", "expected", "critical", 480), ("AF-3.1", "success rate", "red", 90),
    ("AF-3.1", "request rate", "red", 50), ("AF-3.1", "money", "critical", 200),
    ("AF-3.2", "accuracy of chain", "red", 0.90), ("AF-3.2", "accuracy of MECE", "red", 0.85),
    ("AF-3.2", "accuracy of falsif", "red", 0.80), ("AF-3.2", "accuracy of Bayes", "red", 0.75),
    ("AF-3.2", "mean accuracy", "red", 0.85), ("AF-3.2", "epochs without", "red", 2),
    ("AF-3.3", "divergence", "red", 0.3), ("AF-3.3", "mean length", "red", 5), ("AF-3.3", "mean distance", "red", 3),
    ("AF-4.1", "compression of a tiny", "red", 6), ("AF-4.1", "compression of a small", "red", 8),
    ("AF-4.1", "compression of a medium", "red", 10), ("AF-4.1", "compression of a large", "red", 12),
    ("AF-4.1", "sparsity", "yellow", 30), ("AF-4.2", "relative drop", "yellow", 5),
    ("AF-4.2", "relative drop", "red", 10), ("AF-I.2", "free space before", "red", 1.5),
    ("AF-I.2", "free space", "critical", 0.5), ("AF-I.3", "free device", "red", 4),
    ("RZ-2.1", "added", "target", 10), ("RZ-2.1", "added", "yellow", 15), ("RZ-2.1", "added", "red", 20),
    ("RZ-2.2", "loss", "target", 1), ("RZ-2.2", "loss", "yellow", 2), ("RZ-2.2", "loss", "red", 3),
    ("RZ-2.3", "time", "yellow", 200), ("RZ-2.3", "time", "red", 300), ("RZ-2.4", "throughput", "red", 5),
    ("RZ-2.4", "tokens that differ", "red", 0), ("RZ-2.4", "leaked", "red", 0), ("RZ-2.5", "time", "target", 1),
    ("RZ-2.5", "time", "red", 2), ("RZ-2.6", "overhead", "yellow", 10), ("RZ-2.6", "overhead", "red", 15),
    ("RZ-2.7", "models", "target", 20), ("RZ-2.7", "models", "red", 10), ("RZ-2.7", "architectures", "red", 5),
    ("RZ-3.3", "schedule", "yellow", 25), ("RZ-3.3", "failing", "red", 30), ("RZ-4.3", "models", "red", 10),
    ("RZ-5.1", "old tests", "red", 100), ("RZ-5.1", "slowdown", "red", 5), ("RZ-5.2", "old tests", "red", 0),
]  # fmt: skip

RUNGS = [
    ("UT-R001", "learn again", 0.5), ("UT-R002", "cache", 0.9), ("AF-1.4", "clip", 1.0), ("AF-1.4", "halve", 0.5),
    ("AF-2.1", "keep elites", 0.3), ("AF-2.1", "adapt", 0.01), ("AF-2.2", "use the stable", 1e-7),
    ("AF-2.3", "rate on", 1000), ("AF-2.3", "rate in parallel", 4), ("AF-2.3", "approximate", 100),
    ("AF-3.1", "limit", 50), ("AF-3.1", "back off", 2), ("AF-3.2", "augment", 2), ("AF-3.3", "raise the KL", 2.0),
    ("AF-3.3", "raise the reward", 1.5), ("AF-3.3", "ask for longer", 1.5), ("AF-4.1", "raise the sparsity", 1.5),
    ("AF-4.2", "use conservative", 0.05), ("AF-4.2", "fine-tune", 1e-5), ("RZ-2.2", "calibrate", 10000),
    ("RZ-2.3", "attend locally", 256), ("RZ-2.3", "attend in strides", 4), ("RZ-2.3", "attend in blocks", 16),
    ("RZ-2.3", "compress", 0.7), ("RZ-2.3", "cut", 4096),
]  # fmt: skip

# figures that have no field of their own, in the words of the entry
PHRASES = [
    ("HRM-9.1.1", "81 %"), ("HRM-9.1.1", "within 10 steps"), ("HRM-9.1.1", "within 5 %"), ("HRM-9.2.1", "200 samples"),
    ("UT-R001", "lambda × 2"), ("UT-R001", "lambda 1000"), ("UT-R001", "one update a day"), ("UT-R001", "15 to 25 %"),
    ("UT-R001", "every 100 steps"), ("UT-R001", "wrong Fisher matrix"), ("UT-R002", "10,000 requests"),
    ("UT-R002", "200 to 500 ms"), ("UT-R003", "less than 5 %"), ("UT-R006", "137"), ("UT-R007", "10 to 30 s"),
    ("UT-R007", "within 5 %"), ("UT-R007", "runbook"), ("UT-R008", "60, 120 and 240 s"), ("UT-R008", "runbook"),
    ("UT-R009", "99 %"), ("UT-R009", "two reviewers"), ("UT-R009", "30 days"), ("AF-1.1", "1.35 GB"),
    ("AF-1.2", "seed 44, 8 epochs"), ("AF-1.2", "seed 43, 12 epochs"), ("AF-1.2", "seed 42, 10 epochs"),
    ("AF-1.2", "0.90, 0.92 and 0.94"), ("AF-1.2", "2,048, 3,072 and 4,096"), ("AF-1.3", "4 × the model"),
    ("AF-1.3", "every 1,000 steps"), ("AF-1.4", "1,000"), ("AF-1.4", "5 evaluations"),
    ("AF-1.4", "0.999"), ("AF-2.1", "generation 30"),
    ("AF-2.1", "generation 15"), ("AF-2.2", "1e-6"), ("AF-2.2", "length 512"), ("AF-2.3", "10,000"), ("AF-2.3", "0.9"),
    ("AF-3.1", "60 s at most"), ("AF-3.2", "epochs 1 and 2"), ("AF-3.3", "0.4"), ("AF-3.3", "5 to 20 tokens"),
    ("AF-4.1", "0.1 to 0.15"), ("AF-4.2", "45 % zeros"), ("AF-4.2", "500 calibration"), ("AF-I.2", "10, 5, 8 and 3 GB"),
    ("AF-I.2", "1.8 GB"), ("AF-I.3", "every 60 s"), ("RZ-2.1", "1 to 5 ms"), ("RZ-2.2", "MMLU, HellaSwag and ARC"),
    ("RZ-2.3", "64 ×"), ("RZ-2.4", "20 to 30 %"), ("RZ-2.4", "20 or more scenarios"), ("RZ-2.5", "30 and 10 minutes"),
    ("RZ-2.5", "4 GB"), ("RZ-2.6", "24 h"), ("RZ-2.8", "CUDA only"), ("RZ-3.3", "development 20, testing 25"),
    ("RZ-4.2", "30 to 50 %"), ("RZ-5.1", "week 14"), ("RZ-5.2", "speculative decoding"),
]  # fmt: skip


def test_the_box_holds_46_entries_of_sources_and_two_registers_for_anything() -> None:
    counts = {name: len(register.entries) for name, register in ALL.items()}
    assert counts == {"hrm": 3, "ultrathink": 11, "agent-forge": 15, "ryzanstein": 17, "default": 7, "supervise": 4}
    assert tuple(ALL) == builtin_names()
    assert all(register.register == name for name, register in ALL.items())


@pytest.mark.parametrize(("key", "row"), UT.items())
def test_ultrathink_metadata_is_as_its_source_says(key: str, row: tuple[str, str, str, str]) -> None:
    entry = ENTRIES[f"UT-{key}"]
    assert (entry.severity, entry.probability, entry.owner, entry.decide_by) == row
    assert entry.set_by == "source"


@pytest.mark.parametrize(("key", "row"), AF.items())
def test_agent_forge_metadata_is_as_its_source_says(key: str, row: tuple[str, int]) -> None:
    entry = ENTRIES[f"AF-{key}"]
    assert (entry.severity, entry.probability) == row
    assert entry.set_by == "source"


@pytest.mark.parametrize(("key", "row"), RZ.items())
def test_ryzanstein_metadata_is_as_its_source_says(key: str, row: tuple[str, int, str, str]) -> None:
    entry = ENTRIES[f"RZ-{key}"]
    assert (entry.severity, entry.probability, entry.owner, entry.decide_by) == row
    assert entry.set_by == "source"


def test_what_we_set_ourselves_is_marked_so() -> None:
    assert {e.set_by for name in ("hrm", "default", "supervise") for e in ALL[name].entries} == {"premortem"}


@pytest.mark.parametrize(("entry_id", "signal", "level", "figure"), THRESHOLDS)
def test_the_threshold_of_the_source_is_present(entry_id: str, signal: str, level: str, figure: float) -> None:
    matching = [t for t in ENTRIES[entry_id].sees if t.signal.startswith(signal)]
    assert figure in [getattr(threshold, level) for threshold in matching]


@pytest.mark.parametrize(("entry_id", "rung", "by"), RUNGS)
def test_the_rung_has_the_figure_of_the_source(entry_id: str, rung: str, by: float) -> None:
    assert by in [use.by for use in ENTRIES[entry_id].ladder if use.rung.startswith(rung)]


@pytest.mark.parametrize(("entry_id", "phrase"), PHRASES)
def test_the_entry_names_the_figure_of_the_source(entry_id: str, phrase: str) -> None:
    assert phrase in repr(ENTRIES[entry_id])


def test_every_entry_says_what_its_owner_loses() -> None:
    assert all(entry.outcome and entry.owner and entry.contingency and entry.drill for entry in ENTRIES.values())


def test_steps_are_those_that_the_sources_carry_out_in_full() -> None:
    steps = {entry.id for entry in ENTRIES.values() if entry.carry_out == "all"}
    assert steps == {"UT-R001", "UT-R009", "UT-R011"}


def test_an_entry_is_active_exactly_where_it_runs_risks() -> None:
    active = {entry.id for entry in ENTRIES.values() if entry.status == "active"}
    assert active == {entry.id for entry in ENTRIES.values() if entry.risks}
    assert {"HRM-9.1.1", "AF-1.4", "AF-I.2", "DEF-1", "DEF-2", "DEF-3", "DEF-4"} <= active


def test_a_critical_risk_in_the_ultrathink_plan_is_told_within_15_minutes() -> None:
    levels = {level.level: Duration.parse(level.within) for level in ALL["ultrathink"].escalation}
    assert {name: length.amount for name, length in levels.items()} == {"critical": 900, "high": 3600, "medium": 14400}


def test_the_success_criteria_have_their_three_figures() -> None:
    rows = {c.name: (c.target, c.acceptable, c.failed, c.better) for c in ALL["ultrathink"].criteria}
    assert rows == {
        "training speed-up": (3, 2, 1.5, "higher"),
        "regime-transition disruption": (5, 10, 15, "lower"),
        "inference latency p95": (50, 100, 200, "lower"),
        "test coverage": (85, 80, 75, "higher"),
        "model degradation over 30 days": (5, 10, 15, "lower"),
        "orders under risk limits": (100, 100, 100, "higher"),
        "uptime": (99.5, 99, 98, "higher"),
    }


def test_all_seven_flags_are_off() -> None:
    flags = {flag.name: flag.default for flag in ALL["ultrathink"].flags}
    six = "unified_data_pipeline probabilistic_regime_detection event_driven_forensics meta_controller online_learning"
    names = {f"{name}_enabled" for name in [*six.split(), "risk_manager", "new_system"]}
    assert flags == dict.fromkeys(names, False)


def test_the_way_back_and_the_way_out_have_their_figures() -> None:
    register = ALL["ultrathink"]
    assert {r.name: r.within for r in register.rollbacks} == {"flag": "60 s", "service": "10 min", "full": "30 min"}
    assert register.rollout is not None
    assert register.rollout.shares_pct == [5, 25, 100]
    assert (register.rollout.over, register.rollout.shadow, register.rollout.load_factor) == ("3 weeks", "1 week", 2)


def gates(register: RegisterFile) -> dict[str, Gate]:
    return {gate.name: gate for gate in register.gates}


def test_the_four_ryzanstein_gates_have_their_dates_and_figures() -> None:
    rows = {g.name: (g.at, g.measures[0].go, g.measures[0].no_go) for g in ALL["ryzanstein"].gates}
    assert rows == {
        "sync-overhead": ("week 2", 15, 20),
        "quantization": ("week 6", 1, 3),
        "long-context": ("week 8", 200, 300),
        "production-readiness": ("week 12", 5, 30),
    }
    assert all(gate.on_conditional and gate.on_no_go for gate in ALL["ryzanstein"].gates)


def test_every_hand_off_between_phases_has_a_gate() -> None:
    assert {"phase-1-to-2", "phase-2-to-3", "phase-3-to-4"} <= set(gates(ALL["agent-forge"]))


def test_the_ryzanstein_levels_and_bands_are_those_of_the_source() -> None:
    register = ALL["ryzanstein"]
    assert [response.level for response in register.responses] == ["green", "yellow", "red", "critical"]
    bands = {(band.of, band.name): (band.over, band.up_to) for band in register.bands}
    assert bands["severity", "low"] == (0, 5)
    assert bands["severity", "medium"] == (5, 15)
    assert bands["severity", "high"] == (15, 30)
    assert bands["severity", "critical"] == (30, 100)
    assert bands["probability", "low"] == (0, 20)
    assert bands["probability", "medium"] == (20, 50)
    assert bands["probability", "high"] == (50, 100)


def ladder(entry: Entry) -> list[str]:
    return [use.rung for use in entry.ladder]


def test_the_ladders_of_training_keep_the_order_of_their_sources() -> None:
    first = ["skip the offending batch", "cut the learning rate", "clip gradients", "restore the last good checkpoint"]
    assert ladder(ENTRIES["HRM-9.1.1"])[:4] == first
    ours = ["warm up", "clip gradients", "halve the learning rate", "restore the last good checkpoint"]
    assert [rung for rung in ladder(ENTRIES["AF-1.4"]) if rung in ours] == ours


def test_the_storage_entry_sets_the_figures_of_its_source() -> None:
    figures = {"free_factor": 1.5, "prune_below_gb": 2.0, "stop_below_gb": 0.5, "keep": 3}
    assert ENTRIES["AF-I.2"].risks[0].params == figures


def test_loading_imports_no_tensor_library() -> None:
    program = (
        "import sys; from premortem.registers.load import load_all; load_all(); "
        "print(sorted({'torch', 'numpy', 'jsonschema', 'premortem.risks'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
