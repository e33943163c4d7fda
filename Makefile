# make demo OPENKBP=DIR   set up, convert, train a small model for a few minutes, evaluate
# make test               set up, run the tests
# make tensorboard        look at the runs
# make lint               style and types

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIGS := bundles/dose/configs
OPENKBP_CONFIGS := '$(CONFIGS)/train.json','$(CONFIGS)/openkbp.json','$(CONFIGS)/quick.json'
DATA := data/openkbp
BUNDLE := $(BIN)/python -W ignore -m monai.bundle run

ifeq ($(MAKECMDGOALS)$(OPENKBP),demo)
$(error name a folder with the OpenKBP patients: make demo OPENKBP=DIR (a checkout of the open-kbp repository, or its provided-data folder))
endif

.PHONY: demo test tensorboard lint clean

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/python data_scripts/openkbp_to_npz.py "$(OPENKBP)" $(DATA)
	$(BIN)/python data_scripts/make_splits.py $(DATA) --openkbp --overwrite
	$(BUNDLE) training --config_file "[$(OPENKBP_CONFIGS)]" --experiment demo --resume true
	$(BUNDLE) evaluating --config_file "[$(OPENKBP_CONFIGS),'$(CONFIGS)/evaluate.json']" --experiment demo
	@echo
	@echo "figures and curves: make tensorboard    numbers: runs/demo/metrics.csv, predictions/demo_validation/evaluation_results.json"
	@echo "Research software, not a medical device: predicted doses are not for clinical use."

test: $(VENV)/ready
	$(BIN)/python -m pytest

tensorboard: $(VENV)/ready
	$(BIN)/tensorboard --logdir runs --host localhost

lint: $(VENV)/ready
	$(BIN)/python -m flake8 monai_vmat data_scripts tests benchmarks
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build *.egg-info
