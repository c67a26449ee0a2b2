# Two commands for everybody: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
DEMO   := $(VENV)/.installed-demo
DEV    := $(VENV)/.installed-dev
# For `make test-pythons`: those on PATH, and those that scripts/pythons gets; or name them: make test-pythons PYTHONS="python3.12 /opt/py/bin/python3"
PYTHONS ?=
# What to test: make test T=tests/exit; make test T="tests/cli -k forget"
T ?=
# What to measure: make bench B=scope; make bench B="run durable"
B ?=
PYTEST_ARGS ?=
# Workers: more than processors, for most tests wait for other processes. make test JOBS=2 where memory is short.
JOBS   := 4
PYTEST  = -m pytest -q -n $(JOBS) --dist loadgroup
# For `make chaos`: how many kills; and the seed of a run to be repeated.
N    ?= 1000
SEED ?=

.PHONY: chaos-hosts leases model demo test check bench dist test-all test-pythons test-windows docs matrix chaos crash soak transparency clean help
.DEFAULT_GOAL := help

help:
	@echo 'make demo      a staged build, ended in every way: what plain Python and lastly leave behind'
	@echo 'make test      the tests of the first tier: every room and every kind; T=tests/exit: of one room'
	@echo 'make test-all  all tests'
	@echo 'make test-pythons  all tests with every Python from 3.11 to 3.15 that is on PATH or can be got'
	@echo 'make test-windows  what runs on Windows, with the CPython for Windows under Wine, which scripts/windows gets'
	@echo 'make check     ruff, mypy, pyright as a user has it, and the tests that hold the architecture'
	@echo 'make bench     benchmarks, beside their floors and peers in the same run; B=scope: one group'
	@echo 'make docs      the reference pages, from the docstrings, and the site of all pages into build/site'
	@echo 'make matrix    the kill matrix: what 44 ways to end leave behind, into docs/'
	@echo 'make transparency  CPython'\''s own tests under lastly run and without it, compared (some 20 minutes)'
	@echo 'make chaos     1,000 random kills of programs, reaper and workers (N=… SEED=…); make soak: 10,000'
	@echo 'make chaos-hosts  300 random deaths of whole hosts that rent things, PostgreSQL restarted in between (N=… SEED=…)'
	@echo 'make model     a million steps of the model of the shared journal, its invariants after each (N=… SEED=…)'
	@echo 'make leases    the leases of 10,000 hosts on a real PostgreSQL: restarted, frozen, and failed over to a standby'
	@echo 'make crash     the examples, ended at each of their points in every way'
	@echo 'make dist      the wheel and the sdist, built twice, compared and checked'
	@echo 'make clean     remove the environments that these commands have made'

$(DEMO): pyproject.toml scripts/venv scripts/requirements.py
	@scripts/venv $(VENV) "$(PYTHON)" demo
	@touch $@

$(DEV): pyproject.toml scripts/venv scripts/requirements.py
	@scripts/venv $(VENV) "$(PYTHON)" dev
	@touch $@ $(DEMO)

demo: $(DEMO)
	@$(PY) examples/demo.py

# What is compiled of the tests is kept: each worker would else do that again.
test: JOBS := 6
test: $(DEV)
	@PYTHONDONTWRITEBYTECODE= $(PY) $(PYTEST) -m "not slow" $(PYTEST_ARGS) $(T)

test-all: $(DEV)
	@PYTHONDONTWRITEBYTECODE= $(PY) $(PYTEST) $(PYTEST_ARGS) $(T)

check: $(DEV)
	@$(VENV)/bin/ruff check --quiet src tests benchmarks examples scripts
	@$(VENV)/bin/ruff format --quiet --check src
	@$(VENV)/bin/mypy
	@$(VENV)/bin/pyright --pythonpath $(PY) tests/typed/consumer.py
	@$(PY) -m pytest -q tests/test_house.py tests/whole/test_import.py

bench: $(DEV)
	@$(PY) -m benchmarks $(B)

# One environment per version, kept: the second time only the tests run.
test-pythons:
	@found=; failed=; pythons="$(PYTHONS)"; [ -n "$$pythons" ] || pythons=$$(scripts/pythons); \
	for python in $$pythons; do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  found="$$found $$version"; venv=.venvs/$$version; mkdir -p .venvs; \
	  if [ ! -e $$venv/.installed-dev ] || [ pyproject.toml -nt $$venv/.installed-dev ]; then \
	    scripts/venv $$venv "$$python" dev && touch $$venv/.installed-dev || exit 1; \
	  fi; \
	  echo "== Python $$version"; \
	  $$venv/bin/python $(PYTEST) -o cache_dir=$$venv/.pytest_cache $(PYTEST_ARGS) $(T) || failed="$$failed $$version"; \
	done; \
	if [ -z "$$found" ]; then echo "make: none of '$$pythons' is here; name some: make test-pythons PYTHONS=…" >&2; exit 1; fi; \
	if [ -n "$$failed" ]; then echo "make: tests failed with Python$$failed (of$$found)" >&2; exit 1; fi; \
	echo "All tests pass with Python$$found"

# tests/conftest.py is for Linux. No cache, no bytecode: Windows' names of files do not go into this folder.
test-windows: $(DEV)
	@python=$$(PYTHON=$(PY) scripts/windows) && \
	PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$(CURDIR)/src" "$$python" -m pytest -q --noconftest -p no:cacheprovider \
	  $(PYTEST_ARGS) $(or $(T),tests/system/on_windows.py tests/system/test_contract.py)

# Strict: a dead link or anchor is an error.
docs: $(VENV)/.installed-docs
	@$(PY) scripts/reference.py
	@$(VENV)/bin/zensical build --strict --clean

$(VENV)/.installed-docs: $(DEV)
	@scripts/venv $(VENV) "$(PYTHON)" docs
	@touch $@

# Built twice: the same bytes, or it is not said what they were built from.
dist: $(VENV)/.installed-release
	@rm -rf dist build/again && $(PY) -m build --outdir dist . >build.log 2>&1 || { cat build.log; exit 1; }
	@$(PY) -m build --outdir build/again . >build.log 2>&1 && rm build.log
	@for file in dist/*; do cmp "$$file" "build/again/$$(basename "$$file")" || exit 1; done
	@$(PY) -m twine check --strict dist/* && $(VENV)/bin/check-wheel-contents dist/*.whl

$(VENV)/.installed-release: $(DEV)
	@scripts/venv $(VENV) "$(PYTHON)" release
	@touch $@

matrix: $(DEV)
	@$(PY) tests/whole/kill_matrix.py docs/reference/kill-matrix.md

transparency: $(DEV)
	@$(PY) scripts/transparency.py

chaos: $(DEV)
	@$(PY) tests/whole/chaos.py $(N) $(SEED)

crash: $(DEV)
	@$(PY) tests/whole/crash_examples.py

chaos-hosts: $(DEV)
	@$(PY) tests/reach/chaos.py $(if $(filter 1000,$(N)),300,$(N)) $(SEED)

model: $(DEV)
	@$(PY) tests/reach/model.py $(if $(filter 1000,$(N)),1000000,$(N)) $(SEED)

leases: $(DEV)
	@$(PY) tests/reach/leases.py

soak: $(DEV)
	@$(PY) tests/whole/chaos.py 10000 $(SEED)
	@$(PY) tests/whole/test_power_cut.py 50

clean:
	rm -rf $(VENV) .venvs
