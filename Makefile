# `make demo`: set-up, data, training, evaluation on this machine. `make test`: every check.
VENV := .venv
PY := $(VENV)/bin/python
RECIPE := recipes/smollm2_samsum.yml
MODEL := models/smollm2-135m-instruct/config.json
DATA := data/smollm2_samsum/manifest.json
ADAPTER := outputs/smollm2_samsum/adapter_model.safetensors

export AXOLOTL_DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1

.PHONY: demo test clean

demo: $(ADAPTER)
	$(PY) -m eval.run $(RECIPE)

test: $(VENV)/.dev $(MODEL)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy data_prep eval scripts tests
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=25

clean:
	rm -rf data/smollm2_samsum outputs/smollm2_samsum results/smollm2_samsum

$(VENV)/.ready: pyproject.toml scripts/setup.sh
	sh scripts/setup.sh $(VENV)
	touch $@

$(VENV)/.dev: $(VENV)/.ready
	sh scripts/setup.sh $(VENV) dev
	touch $@

$(MODEL): scripts/get_smollm2.py | $(VENV)/.ready
	$(PY) scripts/get_smollm2.py $(@D)
	touch $@

$(DATA): $(RECIPE) $(MODEL) $(wildcard data_prep/*.py data_prep/sample/*.jsonl)
	$(PY) -m data_prep $(RECIPE)

$(ADAPTER): $(DATA) $(RECIPE)
	$(VENV)/bin/accelerate launch -m axolotl.cli.train $(RECIPE)
	test -f $@ && touch $@
