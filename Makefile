# make demo                      set up, train a small model on the embedded cohort, evaluate it on the test anatomies, predict one
#                                of them with the model that comes with the bundle
# make demo-openkbp OPENKBP=DIR  the same on the OpenKBP patients, converted first
# make test                      set up, run the tests
# make tensorboard               look at the runs
# make experiments               train and evaluate every loss on the embedded cohort, compare them in docs/experiments.md (hours)
# make gradient-sweep            the same for the gradient loss with weights 0.05, 0.1 (grad_loss itself) and 0.2, in docs/gradient_sweep.md
# make cohort                    make the embedded cohort again (half an hour on two cores)
# make coverage                  the tests, and how many branches of monai_vmat they take; coverage.json for 'make mutations'
# make mutations                 do the tests of metrics and losses bite? (docs/reliability/mutations.json)
# make lint                      style and types

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIGS := bundles/dose/configs
# In blocks of 2 x 2 x 2 voxels a step takes a quarter of the time.
DEMO_CONFIGS := '$(CONFIGS)/train.json','$(CONFIGS)/experiments/absolute_structure.json','$(CONFIGS)/experiments/folded.json','$(CONFIGS)/quick.json'
SHIPPED_CASE := data/cohort/phantom_005_rectum-first.npz
OPENKBP_CONFIGS := '$(CONFIGS)/train.json','$(CONFIGS)/openkbp.json','$(CONFIGS)/quick.json'
OPENKBP_SETTINGS := --patch_size "[112,64,96]" --experiment demo-openkbp
DATA := data/openkbp
BUNDLE := $(BIN)/python -W ignore -m monai.bundle run
REPORTS := $(BIN)/python -m monai_vmat.reports
COHORT := --cases 24 --seed 2026 --out data/cohort

# A run is named OVERLAY-seed<n> or, in the sweep, grad_loss-weight<w>-seed<n>; what was interrupted goes on, what is done stays.
# Fewer or more: make experiments LOSSES="baseline dvh_aware" SEEDS=42. grad_vgg is left out: its weights are a download.
LOSSES := baseline grad_loss dvh_aware structure_weighted asymmetric_ptv structure_dvh combined adversarial absolute_error
GRADIENT_WEIGHTS := 0.05 0.2
SEEDS := 42 43 44
LOSS_RUNS := $(foreach seed,$(SEEDS),$(LOSSES:%=%-seed$(seed)))
SWEEP_RUNS := $(foreach seed,$(SEEDS),baseline-seed$(seed) grad_loss-seed$(seed) \
    $(GRADIENT_WEIGHTS:%=grad_loss-weight%-seed$(seed)))
RUN_COMMAND := python -m monai.bundle run training --config_file [train.json, experiments/OVERLAY.json, quick.json] \
    --experiment OVERLAY-seedN --seed N, then evaluating
RESULTS := predictions/%_test/evaluation_results.json

ifeq ($(MAKECMDGOALS)$(OPENKBP),demo-openkbp)
$(error name a folder with the OpenKBP patients: make demo-openkbp OPENKBP=DIR (a checkout of the open-kbp repository, or its provided-data folder))
endif

.PHONY: demo demo-openkbp experiments gradient-sweep test tensorboard cohort lint clean coverage mutations

INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

# What training, evaluating and predicting need ...
$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) .
	touch $@

# ... and all that the tests use, which is several times as much.
$(VENV)/developed: $(VENV)/ready
	$(INSTALL) '.[dev,planning,scale]'
	touch $@

demo: $(VENV)/ready
	$(BUNDLE) training --config_file "[$(DEMO_CONFIGS)]" --experiment demo --max_epochs 28 --val_interval 14 --resume true
	$(BUNDLE) evaluating --config_file "[$(DEMO_CONFIGS),'$(CONFIGS)/evaluate.json']" --experiment demo
	$(REPORTS) evaluation predictions/demo_test
	$(BUNDLE) inference --config_file $(CONFIGS)/inference.json --input $(SHIPPED_CASE) --output_dir predictions/shipped
	@echo
	@echo "shipped model: predictions/shipped/, the dose of $(SHIPPED_CASE) as .npz and .nii.gz"
	@echo "report:       predictions/demo_test/report.html, beside it evaluation_results.json and figures/; runs/demo/metrics.csv"
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

experiments: $(LOSS_RUNS:%=$(RESULTS))
	$(REPORTS) compare $(LOSS_RUNS:%=runs/%) --out docs/experiments \
	    --command 'make experiments SEEDS="$(SEEDS)"; each run: $(RUN_COMMAND)'

gradient-sweep: $(SWEEP_RUNS:%=$(RESULTS))
	$(REPORTS) compare $(SWEEP_RUNS:%=runs/%) --out docs/gradient_sweep \
	    --command 'make gradient-sweep SEEDS="$(SEEDS)"; each run: $(RUN_COMMAND)'

# $(1): the run's name, $(2): overlay, $(3): seed, $(4): further settings
define experiment
	$(BUNDLE) training --config_file "[$(call EXPERIMENT_CONFIGS,$(2))]" --experiment $(1) --seed $(3) $(4) --resume true
	$(BUNDLE) evaluating --config_file "[$(call EXPERIMENT_CONFIGS,$(2)),'$(CONFIGS)/evaluate.json']" --experiment $(1) $(4)
endef
EXPERIMENT_CONFIGS = '$(CONFIGS)/train.json','$(CONFIGS)/experiments/$(1).json','$(CONFIGS)/quick.json'

$(RESULTS): | $(VENV)/ready
	$(call experiment,$*,$(firstword $(subst -seed, ,$*)),$(lastword $(subst -seed, ,$*)))

predictions/grad_loss-weight%_test/evaluation_results.json: | $(VENV)/ready
	$(call experiment,grad_loss-weight$*,grad_loss,$(lastword $(subst -seed, ,$*)),\
	    --loss#weights#gradient $(firstword $(subst -seed, ,$*)))

# Two processes of one thread each: most tests start programs, which are busy importing.
test: $(VENV)/developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

coverage: $(VENV)/developed
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage json --quiet
	$(BIN)/python -m coverage report

mutations: $(VENV)/developed
	$(BIN)/python -m tests.mutations --out docs/reliability/mutations.json $(if $(wildcard coverage.json),--coverage coverage.json)

tensorboard: $(VENV)/ready
	$(BIN)/tensorboard --logdir runs --host localhost

cohort: $(VENV)/developed
	$(BIN)/python -W ignore data_scripts/make_phantom_cohort.py $(COHORT)

lint: $(VENV)/developed
	$(BIN)/python -m flake8 monai_vmat data_scripts benchmarks tests
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build *.egg-info
