# `make` lists the commands. They need git, make and Python 3.11 to 3.13; the first one installs everything into .venv/.
# Variables that may be given, as in `make study ROWS=8`; nothing else is, and nothing comes from the environment.
ROWS = all
DATA = phantom
ROOT =
GROUP = all
PROFILE = local
PRESET =
SET =
PLUGINS =
DRY =
JOBS =
DEVICES =
RUNS =
NIH256 =
NIH128 =
CASES =
PYTHON = python3
GIVEN := ROWS DATA ROOT GROUP PROFILE PRESET SET PLUGINS DRY JOBS DEVICES RUNS NIH256 NIH128 CASES PYTHON
given = $(filter command,$(origin $1))
near = $(strip $(foreach o,$(GIVEN),$(if $(or $(findstring $1,$o),$(findstring $o,$1)),$o)))
hint = $(if $(call near,$1),did you mean $(call near,$1)?,known are $(GIVEN))
$(foreach v,$(.VARIABLES),$(if $(call given,$v),$(if $(filter $(GIVEN),$v),,$(error unknown variable $v; $(call hint,$v)))))
# What is given is text: make must not expand a $(...) in it, and the commands read it from the environment.
$(foreach v,$(GIVEN),$(if $(call given,$v),$(eval override $v := $$(value $v))))
export $(GIVEN)

BIN := .venv/bin
SOURCES := nbs cxrlt_nb tests scripts docs setup.py
PAPERMILL := $(BIN)/papermill --stdout-file - --log-level WARNING --no-progress-bar
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script
# Keep compiled modules: without them every kernel compiles thousands of files again.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help train study study-extended results results-extended real test test-own-data test-kill test-faults test-study test-slurm test-docs bench bench-check bench-gpu docs
.PHONY: format lint export lock ensemble-report leakage-study

help:  ## List the commands
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | awk -F '\t' '{ printf "make %-18s %s\n", $$1, $$2 }'

train: .venv/ready  ## First look: make the phantom, train a small model on it, compare it with chance (4 minutes)
	$(BIN)/cxrlt train

test: export OMP_NUM_THREADS := 1
test: .venv/ready  ## Run every notebook's tests, then pytest, two processes at a time (6 minutes on two cores)
	$(BIN)/nbdev_test --n-workers 2
	$(BIN)/pytest --numprocesses 2 --dist loadscope

# make test-own-data ROOT=/data/ours/export.csv   the page on your images, which lie below the folder of that table
test-own-data: .venv/ready  ## Run the page “Your own data in ten minutes” from its text, and train on incomplete labels
	$(BIN)/pytest tests/own_data.py

test-kill: .venv/ready  ## Interrupt caching, training and other commands at fifteen random moments, or CASES=50; each must resume
	$(BIN)/python tests/kill.py

test-faults: .venv/ready  ## Damage files of a run, fill the disk at each write, generate hostile input: a few cases, or CASES=300
	$(BIN)/python tests/faults.py
	$(BIN)/pytest $(if $(CASES),tests/test_tables.py tests/test_images.py) tests/generated.py

# make study ROWS=8               some rows only
# make study-extended GROUP=loss  one group, or one configuration, of nbs/07_ablation.ipynb
# Both take
#   DATA=nih ROOT=/data/nih    other data; results go to runs/table2-nih/ and runs/extended-nih/
#   SET="images=500 epochs=5"  other parameters for all trainings
#   PLUGINS=package.module     modules that add rows, models, losses … to the registries
#   DRY=1                      only list what would be done; DRY=0 is as if it was not given
#   JOBS=2                     GPUs or CPU cores that are used at once; by default all
#   PROFILE=slurm              a folder of profiles/; slurm submits each training to a cluster, with the paper's preset
override DRY := $(if $(filter 0 no false,$(DRY)),,$(DRY))
ifneq ($(filter-out 1 yes true,$(DRY)),)
$(error DRY=$(DRY) must be 1 or 0)
endif
RULE = study
SNAKEMAKE = $(BIN)/python scripts/study.py $(RULE)

study: .venv/ready  ## Table 2 with intervals, the paper's claims, the cost, and a report in runs/table2/report.html
	$(SNAKEMAKE) rows

study-extended: .venv/ready  ## What the paper leaves out: augmentation, label rules, losses and folds, three seeds each
	$(SNAKEMAKE) group

results: RULE = results
results: .venv/ready  ## Complete make study if necessary and copy its tables to nbs/results, which is committed
	$(SNAKEMAKE) rows

results-extended: RULE = results
results-extended: .venv/ready  ## The same for make study-extended GROUP=...
	$(SNAKEMAKE) group

real: .venv/ready  ## All parts of nbs/07a_real.ipynb, NIH256=... NIH128=...; half a day on two cores, resumes
	@test -d "$$NIH256" -a -d "$$NIH128" || { echo 'give the folders, NIH256=... NIH128=...' >&2; exit 1; }
	$(MAKE) results DATA=nih ROOT="$$NIH256" PRESET=laptop
	$(MAKE) results-extended GROUP=ladder DATA=nih ROOT="$$NIH256" PRESET=laptop
	for group in augmentation loss learning_curve; do \
		$(MAKE) results-extended GROUP=$$group DATA=nih ROOT="$$NIH128" PRESET=laptop || exit 1; \
	done
	$(if $(DRY),,$(BIN)/python scripts/leakage_study.py --data nih --root "$$NIH128")
	$(if $(DRY),,$(BIN)/python scripts/nih_images.py nih256 --settle "$$NIH256" "$$NIH128" --out data/settle)
	$(if $(DRY),,$(MAKE) results-extended GROUP=settle DATA=nih ROOT=data/settle PRESET=laptop)

test-study: .venv/ready  ## Test the graph of a small study: interrupted and resumed, a failing training, two pretended GPUs
	$(BIN)/python tests/study.py
	$(BIN)/pytest -m long

test-slurm: .venv/ready  ## Test rows of Table 2 through Slurm on this machine, as root (5 minutes)
	$(BIN)/python tests/slurm.py

bench: runs/bench.json  ## Measure speed against alternatives, into nbs/results/bench.json (25 minutes, quiet machine)
	cp $< nbs/results/bench.json

bench-check: runs/bench.json  ## Measure again; fail if a ratio is below 80 % of the committed one
	$(BIN)/python -m cxrlt_nb.bench.figures $< nbs/results/bench.json

bench-gpu: .venv/ready  ## Measure the paper's models on a GPU, into nbs/results/bench_gpu.json (10 minutes)
	@mkdir -p runs && rm -f runs/bench_gpu.json
	$(PAPERMILL) nbs/bench/04_gpu.ipynb runs/bench_04_gpu.ipynb -p out '$(CURDIR)/runs/bench_gpu.json'
	cp runs/bench_gpu.json nbs/results/bench_gpu.json

.PHONY: runs/bench.json
runs/bench.json: .venv/ready
	@mkdir -p runs && rm -f $@
	for name in 01_input 02_training 03_evaluation 06_scale; do \
		$(PAPERMILL) nbs/bench/$$name.ipynb runs/bench_$$name.ipynb -p out '$(CURDIR)/$@' || exit 1; \
	done

docs: .venv/ready docs/node_modules/ready  ## Build the site into _site/ without running a notebook
	$(BIN)/python docs/build.py

test-docs: docs  ## Open every page of the site in Chromium: desktop and phone, light and dark
	$(BIN)/pytest tests/browse.py --numprocesses 2 --dist loadgroup

docs/node_modules/ready: docs/package.json docs/package-lock.json
	@command -v npm > /dev/null || { echo 'npm is missing: apt-get install npm, or install Node 18 or later' >&2; exit 1; }
	npm ci --prefix docs --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

format: .venv/ready  ## Format notebooks, modules, tests and scripts, and fix what ruff can fix
	$(BIN)/ruff check --quiet --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lint: .venv/ready  ## Check format and style; change nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

export: .venv/ready  ## Write the modules and README.md from the notebooks, and clean the notebooks
	$(BIN)/ruff format --quiet $(SOURCES)
	$(BIN)/nbdev-export
	@touch .venv/ready  # nbdev-export rewrites pyproject.toml
	$(BIN)/ruff format --quiet cxrlt_nb
	$(BIN)/nbdev-clean
	$(BIN)/python scripts/readme.py

lock: .venv/ready  ## Write requirements.lock: every version with its hashes, for Python 3.11 to 3.13
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml -o requirements.lock

.venv/ready: requirements.lock settings.ini setup.py pyproject.toml
	@"$$PYTHON" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python must be 3.11 to 3.13; {v[0]}.{v[1]} found. Set PYTHON=/path/to/python")'
	"$$PYTHON" -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

ensemble-report: .venv/ready  ## Report folds, TTA and ensembles from saved predictions: RUNS="runs/a runs/b"
	$(BIN)/python scripts/folds_report.py $$RUNS

leakage-study: .venv/ready  ## Measure what image-level folds do to a validation mAP: ten small runs (10 minutes)
	$(BIN)/python scripts/leakage_study.py
