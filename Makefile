# Two commands for everybody: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed-dev

.PHONY: demo test check bench test-all clean
.DEFAULT_GOAL := test

# uv where it is, pip where it is not: the same environment, sooner or later.
$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --seed --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(PY) -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)
	@$(PY) examples/demo.py

test: $(STAMP)
	$(PY) -m pytest -q -n 2 --dist loadgroup

check: $(STAMP)
	$(VENV)/bin/ruff check src tests benchmarks examples scripts
	$(VENV)/bin/ruff format --check src
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/unit/test_architecture.py

bench: $(STAMP)
	@$(PY) -m benchmarks

clean:
	rm -rf $(VENV)
