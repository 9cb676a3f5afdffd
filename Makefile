# make demo   the main job, small enough for a laptop CPU: about half an hour with installation
# make test   every test
# make run PROFILE=ci|demo|small|paper    the main job with another profile

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= demo
VENV := .venv
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PREFECT_LOGGING_LEVEL ?= WARNING
export DO_NOT_TRACK := 1

.PHONY: demo run test test-fast lint server install clean

demo:
	@$(MAKE) --no-print-directory run PROFILE=demo

run: $(INSTALLED)
	@wam profile --profile $(PROFILE)
	@before=$$(cksum dvc.lock 2>/dev/null); \
	dvc --wait-for-lock repro report@$(PROFILE) || exit $$?; \
	wam results --profile $(PROFILE) || exit $$?; \
	test "$$before" != "$$(cksum dvc.lock 2>/dev/null)" || \
		echo "Nothing to do: every artifact of profile '$(PROFILE)' was up to date."

test: $(INSTALLED)
	@pytest -q

test-fast: $(INSTALLED)
	@pytest -q -m "not slow"

lint: $(INSTALLED)
	@ruff format --check . && ruff check . && mypy

# A local Prefect server with the deployments of prefect.yaml; `prefect server stop` ends it.
server: export PREFECT_API_URL := http://127.0.0.1:4200/api
server: $(INSTALLED)
	@prefect server start --background
	@until python -c "import urllib.request as u; u.urlopen('$(PREFECT_API_URL)/health')" 2>/dev/null; do sleep 1; done
	@prefect work-pool inspect local-process >/dev/null 2>&1 || prefect work-pool create local-process --type process
	@prefect --no-prompt deploy --all
	@prefect deployment ls

install: $(INSTALLED)

# Pins come from constraints.txt; torch is whatever build satisfies them on this machine.
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes on the first run) ..."
	@pip install -qq --disable-pip-version-check --constraint constraints.txt --editable ".[sim,pipeline,dev]"
	@touch $@

clean:
	rm -rf data/ci data/demo $(VENV)
