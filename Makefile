# make demo                      set up, train a small model on the embedded cohort, evaluate it on the test anatomies
# make demo-openkbp OPENKBP=DIR  the same on the OpenKBP patients, converted first
# make test                      set up, run the tests
# make tensorboard               look at the runs
# make cohort                    make the embedded cohort again (half an hour on two cores)
# make lint                      style and types

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIGS := bundles/dose/configs
DEMO_CONFIGS := '$(CONFIGS)/train.json','$(CONFIGS)/experiments/absolute_error.json','$(CONFIGS)/quick.json'
OPENKBP_CONFIGS := '$(CONFIGS)/train.json','$(CONFIGS)/openkbp.json','$(CONFIGS)/quick.json'
OPENKBP_SETTINGS := --patch_size "[112,64,96]" --experiment demo-openkbp
DATA := data/openkbp
BUNDLE := $(BIN)/python -W ignore -m monai.bundle run
COHORT := --cases 24 --seed 2026 --out data/cohort

ifeq ($(MAKECMDGOALS)$(OPENKBP),demo-openkbp)
$(error name a folder with the OpenKBP patients: make demo-openkbp OPENKBP=DIR (a checkout of the open-kbp repository, or its provided-data folder))
endif

.PHONY: demo demo-openkbp test tensorboard cohort lint clean

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,planning]'
	touch $@

demo: $(VENV)/ready
	$(BUNDLE) training --config_file "[$(DEMO_CONFIGS)]" --experiment demo --resume true
	$(BUNDLE) evaluating --config_file "[$(DEMO_CONFIGS),'$(CONFIGS)/evaluate.json']" --experiment demo
	@echo
	@echo "report:       predictions/demo_test/evaluation_results.json, runs/demo/metrics.csv"
	@echo "TensorBoard:  make tensorboard (runs/demo)"
	@echo "Research software, not a medical device: predicted doses are not for clinical use."

demo-openkbp: $(VENV)/ready
	$(BIN)/python data_scripts/openkbp_to_npz.py "$(OPENKBP)" $(DATA)
	$(BIN)/python data_scripts/make_splits.py $(DATA) --openkbp --overwrite
	$(BUNDLE) training --config_file "[$(OPENKBP_CONFIGS)]" $(OPENKBP_SETTINGS) --max_epochs 3 --val_interval 1 --resume true
	$(BUNDLE) evaluating --config_file "[$(OPENKBP_CONFIGS),'$(CONFIGS)/evaluate.json']" $(OPENKBP_SETTINGS)
	@echo
	@echo "report:       predictions/demo-openkbp_validation/evaluation_results.json, runs/demo-openkbp/metrics.csv"
	@echo "TensorBoard:  make tensorboard (runs/demo-openkbp)"
	@echo "Research software, not a medical device: predicted doses are not for clinical use."

test: $(VENV)/ready
	$(BIN)/python -m pytest

tensorboard: $(VENV)/ready
	$(BIN)/tensorboard --logdir runs --host localhost

cohort: $(VENV)/ready
	$(BIN)/python -W ignore data_scripts/make_phantom_cohort.py $(COHORT)

lint: $(VENV)/ready
	$(BIN)/python -m flake8 monai_vmat data_scripts benchmarks tests
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build *.egg-info
