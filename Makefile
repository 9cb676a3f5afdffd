# make demo   the main job, small enough for a laptop CPU: 20 to 45 minutes with installation
# make test   every test
# make run PROFILE=ci|demo|small|paper    the main job with another profile
# make study  does the inverse-dynamics head help? hours on two cores, resumable
# make test-compat    the export read by the real LeRobot; the lowest allowed versions
# make drill  kills and faults at every point of every stage

PYTHON ?= $(shell command -v python3.11 || command -v python3)
LEROBOT_PYTHON ?= $(PYTHON)
PROFILE ?= demo
VENV := .venv
INSTALLED := $(VENV)/.installed
LEROBOT := .venv-lerobot
LOWEST := .venv-lowest
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PREFECT_LOGGING_LEVEL ?= WARNING
export DO_NOT_TRACK := 1
# A server on this machine is never behind a proxy.
comma := ,
LOOPBACK := 127.0.0.1,localhost,::1
export NO_PROXY := $(if $(NO_PROXY),$(NO_PROXY)$(comma))$(LOOPBACK)
export no_proxy := $(if $(no_proxy),$(no_proxy)$(comma))$(LOOPBACK)

.PHONY: demo run study test test-fast test-compat test-lerobot test-lowest drill lint server install clean no-scm

demo:
	@$(MAKE) --no-print-directory run PROFILE=demo

study: $(INSTALLED) no-scm
	@wam run-study

# DVC works without git, if it is told to.
no-scm:
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
		if grep -qs no_scm .dvc/config.local; then dvc config --local --unset core.no_scm; fi; \
	elif ! grep -qs no_scm .dvc/config.local; then \
		dvc config --local core.no_scm true && echo "No git repository here: DVC does without one."; \
	fi

run: $(INSTALLED) no-scm
	@wam profile --profile $(PROFILE)
	@before=$$(cksum dvc.lock 2>/dev/null); \
	wam run --profile $(PROFILE) || exit $$?; \
	wam results --profile $(PROFILE) || exit $$?; \
	test "$$before" != "$$(cksum dvc.lock 2>/dev/null)" || \
		echo "Nothing to do: every artifact of profile '$(PROFILE)' was up to date."

# A file's tests stay together: they share what they prepare.
test: $(INSTALLED)
	@pytest -q -n logical --maxprocesses 4 --dist loadfile

test-fast: $(INSTALLED)
	@pytest -q -m "not slow"

test-compat: test-lerobot test-lowest

# The newest LeRobot for LEROBOT_PYTHON: from 0.5 it needs Python 3.12.
test-lerobot: $(INSTALLED) $(LEROBOT)/.installed
	@$(LEROBOT)/bin/python -m pip freeze | grep -E '^(lerobot|torch|numpy|datasets)=='
	@LEROBOT_VENV=$(LEROBOT) pytest -q tests/pipeline/lerobot/test_export.py

test-lowest: export PATH := $(abspath $(LOWEST))/bin:$(PATH)
test-lowest: $(LOWEST)/.installed
	@pytest -q -m "not slow"

# Faults at every point of every stage (an hour on two cores); the table goes into the documentation.
drill: $(INSTALLED)
	@python -m tests.drill --write docs/reliability.md

lint: $(INSTALLED)
	@ruff format --check . && ruff check . && mypy

# A local Prefect server with the deployments of prefect.yaml; `prefect server stop` ends it.
server: export PREFECT_API_URL := http://127.0.0.1:4200/api
server: HEALTHY = python -c "import urllib.request as u; u.urlopen('$(PREFECT_API_URL)/health', timeout=5)" 2>/dev/null
server: $(INSTALLED)
	@if $(HEALTHY); then echo "A server answers at $(PREFECT_API_URL): the deployments are renewed."; \
	else prefect server stop >/dev/null 2>&1; prefect server start --background; fi
	@for attempt in $$(seq 60); do \
		$(HEALTHY) && exit 0; sleep 1; \
	done; echo "no Prefect server answers at $(PREFECT_API_URL); 'prefect server start' shows why"; exit 1
	@prefect work-pool inspect local-process >/dev/null 2>&1 || prefect work-pool create local-process --type process
	@prefect --no-prompt deploy --all
	@prefect deployment ls

install: $(INSTALLED)

# Pins come from constraints.txt; torch is whatever build satisfies them on this machine.
$(INSTALLED): pyproject.toml constraints.txt
	@python="$(PYTHON)"; remedy="make PYTHON=/path/to/python3.11"; \
	if test -x $(VENV)/bin/pip; then python=$(VENV)/bin/python; remedy="rm -r $(VENV), then $$remedy"; fi; \
	found=$$($${python:-false} -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
	test "$$found" = 3.11 || { \
		echo "needs Python 3.11, found $${found:-none} ($${python:-no python3 on PATH}): $$remedy" >&2; exit 1; \
	}
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes on the first run) ..."
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable ".[sim,pipeline,dev]"
	@touch $@

# LeRobot allows other versions of torch than this project: its environment has nothing of the project.
$(LEROBOT)/.installed:
	@test -x $(LEROBOT)/bin/pip || $(LEROBOT_PYTHON) -m venv $(LEROBOT)
	@echo "installing into $(LEROBOT) (8 GB where torch is a CUDA build) ..."
	@$(LEROBOT)/bin/python -m pip install -qq --disable-pip-version-check "lerobot[dataset]"
	@touch $@

# What the direct requirements require themselves is as new as they allow.
$(LOWEST)/.installed: pyproject.toml tests/compat/lowest.py | $(INSTALLED)
	@test -x $(LOWEST)/bin/pip || $(VENV)/bin/python -m venv $(LOWEST)
	@$(VENV)/bin/python -m tests.compat.lowest sim pipeline dev > $(LOWEST)/constraints.txt
	@echo "installing into $(LOWEST) (6 GB where torch is a CUDA build) ..."
	@$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable ".[sim,pipeline,dev]"
	@touch $@

clean:
	rm -rf data/ci data/demo $(VENV) $(LEROBOT) $(LOWEST)
