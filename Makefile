# The two commands for a fresh machine are `make demo` and `make test`; both set up what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo dev test faults model machine fuzz soak million bench bench-peers bench-curves lint format proto lock clean

PYTHON ?=
export PYTHON
# Where it is set, each of the many processes that tests start compiles all that it imports: 2 s.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
# Arguments for the command behind a target: make test ARGS='-k watch -x'
ARGS ?=

help: ## say what there is
	@sed -nE 's/^([a-z-]+):[^#]*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## make .venv/ with everything, and get RabbitMQ if there is none
	@scripts/setup

demo: setup ## show it working on real inputs
	@$(BIN)/headway demo $(ARGS)

dev: setup ## run it here: private PostgreSQL and RabbitMQ, server, worker
	@$(BIN)/headway dev $(ARGS)

# Three processes on two cores, a file each, since they often wait; each has services of its own.
# What asserts a duration runs after them, alone. 5: ARGS chose none of them.
test: setup ## run all tests, the fault matrix scaled down, against private services
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
	  -m "not slow_faults and not alone" $(ARGS) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? = 5 ]

# An hour: default times, ten thousand rounds of every race, jobs of four minutes.
faults: setup ## run the fault matrix at full length, and print recovery times
	@HEADWAY_TEST_RACE_ROUNDS=10000 HEADWAY_TEST_RACE_SECONDS=60 \
	  $(BIN)/python -m pytest -m "" -s --timeout 900 tests/faults tests/store/test_races.py $(ARGS)

model: setup ## explore the protocol's model with larger budgets; minutes, and up to 2 GB
	@$(BIN)/python -m pytest -m "" -s tests/model tests/mutants $(ARGS)

# pytest prints what it takes to play a game again: make machine ARGS='--hypothesis-seed 7'
machine: setup ## compare the store with plain Python in 500 long games, and with mutants of its SQL
	@HEADWAY_TEST_MACHINE=$${HEADWAY_TEST_MACHINE:-500} \
	  $(BIN)/python -m pytest -m "" -s tests/store/test_state_machine.py $(ARGS)

fuzz: setup ## throw bad input at every border, up to 200 times for each property
	@HEADWAY_FUZZ_EXAMPLES=$${HEADWAY_FUZZ_EXAMPLES:-200} $(BIN)/python -m pytest -m "" tests/fuzz $(ARGS)

# The seed is printed; the same one makes the same faults. docs/soak.md tells more.
soak: setup ## faults at random under load, for ten minutes: make soak ARGS='--seconds 120 --seed 7'
	@$(BIN)/python -m tests.soak $(ARGS)

million: setup ## run a million jobs without a fault, each exactly once
	@$(BIN)/python -m tests.soak --no-faults --jobs 1000000 $(ARGS)

bench: setup ## measure Headway beside its floors, into bench/out/latest.json
	@$(BIN)/python -m bench $(ARGS)

# The rows that peers are compared in; theirs are in environments of their own, in .cache/peers.
PEER_ROWS := submit_batch32,end_to_end_unary,end_to_end_batch32,drain,*_submit,*_drain,*_end_to_end
bench-peers: setup ## measure Headway beside what people use instead, into bench/out/peers/
	@$(BIN)/python -m bench --peers --only '$(PEER_ROWS)' --out bench/out/peers $(ARGS)

bench-curves: setup ## measure the curves in docs/ and draw them
	@$(BIN)/python -m bench.curves $(ARGS)

lint: setup ## formatting, lint, types, architecture, protos
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir .cache/import-linter
	@$(BIN)/buf lint
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py --check

format: setup ## put the code in shape
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

proto: setup ## write the stubs from the protos again
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

# No address of any index goes into the lock; the hashes are those of the public files.
lock: setup ## lock the newest versions that pyproject.toml allows
	@$$(command -v uv || echo .cache/tools/bin/uv) pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' --quiet --output-file requirements.lock

clean: ## remove what the other targets made, running private services first
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m headway_dev.leftovers .headway .cache/test-services .cache/soak .cache/bench || true; fi
	@rm -rf .venv .cache .headway build dist .hypothesis
