# make run and make test each work alone on a fresh machine with Python >= 3.11, make and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEEDS ?= 3

# threads that wait must not spin: two cores are shared with whatever else runs
export OMP_WAIT_POLICY = PASSIVE

.PHONY: setup run test check drill bench board chaos soak docs clean format

setup: $(STAMP)

# torch comes first and pinned: asked for by another package it would bring gigabytes of CUDA
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

run: setup
	$(BIN)/premortem run

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90
	$(BIN)/python tests/coverage_floor.py

check: setup
	$(BIN)/ruff format --check src tests benchmarks examples docs/tables.py
	$(BIN)/ruff check src tests benchmarks examples docs/tables.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src docs README.md CONTRIBUTING.md CHANGELOG.md
	for register in hrm ultrathink agent-forge ryzanstein default supervise; do $(BIN)/premortem register validate $$register || exit 1; done
	$(BIN)/python docs/tables.py --check

drill: setup
	$(BIN)/premortem drill --register hrm --seeds $(SEEDS)
	$(BIN)/premortem drill AF-1.4 AF-I.2 AF-1.1 AF-1.3 AF-I.1 AF-I.3 UT-R006 --seeds $(SEEDS)

bench: setup
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/engine_cost.py
	$(BIN)/python benchmarks/step_cost.py --threads 1 --tokens 128
	$(BIN)/python benchmarks/sabotage.py
	$(BIN)/python benchmarks/detectors.py
	$(BIN)/python benchmarks/grokking.py
	$(BIN)/python benchmarks/hrm_sudoku.py --size 4 --seeds 3 --minutes 10
	$(BIN)/python benchmarks/hrm_maze.py --size 5 --seeds 3
	$(BIN)/python benchmarks/ppo_maze.py --size 5 --seeds 3
	$(BIN)/python benchmarks/service_load.py
	$(BIN)/python benchmarks/service_faults.py
	$(BIN)/python benchmarks/machine.py
	$(BIN)/python benchmarks/fault_lines.py
	$(BIN)/python benchmarks/fitting.py
	$(BIN)/python benchmarks/tracker_cost.py
	$(BIN)/python benchmarks/replay_speed.py

# installs the peers into environments of their own
board: setup
	$(BIN)/python -m benchmarks.board

chaos: setup
	$(BIN)/python -m benchmarks.chaos

soak: setup
	$(BIN)/python benchmarks/checkpoint_soak.py
	$(BIN)/python benchmarks/kill_soak.py
	$(BIN)/python benchmarks/distributed_soak.py

docs: setup
	$(BIN)/python docs/tables.py
	$(BIN)/python -m premortem.app.report.picture docs/img/rescued.svg
	$(BIN)/python -m premortem.app.report.replayed docs/img/replay.svg

format: setup
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

clean:
	rm -rf $(VENV) .premortem build dist *.egg-info
