# The few commands a person types. `make train` and `make test` work on a fresh machine with git, make and Python 3.11 to 3.13.
PYTHON ?= python3
BIN := .venv/bin
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script
# Compiled modules are kept: without them each kernel compiles some thousand files again.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: train study study-extended results results-extended bench bench-check test test-kill test-study test-slurm compare-nih ensemble-report leakage-study export lock docs test-docs

train: .venv/ready  ## a first look: draw the phantom, train on it, say how far from chance it is
	@mkdir -p runs
	$(BIN)/papermill --stdout-file - --log-level WARNING --no-progress-bar nbs/05_train.ipynb runs/train.ipynb

test: .venv/ready  ## every notebook's lessons, the command line, and the state of the repository
	$(BIN)/nbdev_test --n-workers 2
	$(BIN)/pytest

test-kill: .venv/ready  ## kill -9 at twelve random moments of caching and training, resumed each time
	$(BIN)/python tests/kill.py

# make study ROWS=8 DATA=nih ROOT=/data/nih  some rows only, on other data
# make study-extended GROUP=loss             one group, or one configuration, of nbs/07_ablation.ipynb
# Both take
#   SET="images=500 epochs=5"  other parameters for all trainings
#   PLUGINS=package.module     modules that add rows, models, losses … to the registries
#   DRY=1                      only list what would be done
#   JOBS=2                     trainings at once; by default one per GPU, or one
#   PROFILE=slurm              a folder of profiles/; slurm submits each training to a cluster, with the paper's preset
ROWS ?= all
DATA ?= phantom
GROUP ?= all
PROFILE ?= local
PRESET ?= $(if $(filter local,$(PROFILE)),auto,paper)
comma := ,
GPUS = $(shell nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd,)
DEVICES ?= $(if $(filter local,$(PROFILE)),$(or $(CUDA_VISIBLE_DEVICES),$(GPUS)))
JOBS ?= $(if $(filter local,$(PROFILE)),$(if $(DEVICES),$(words $(subst $(comma), ,$(DEVICES))),1),17)
RULE = study
SNAKEMAKE = $(BIN)/snakemake $(RULE) --profile profiles/$(PROFILE) \
	$(if $(filter local,$(PROFILE)),--cores,--jobs) $(JOBS) $(if $(DRY),--dry-run) \
	--config preset='$(PRESET)' set='$(SET)' data='$(DATA)' root='$(ROOT)' plugins='$(PLUGINS)' \
	$(if $(DEVICES),devices='$(DEVICES)')

study: .venv/ready  ## Table 2 with intervals, the claims of the paper, the cost, and runs/table2/report.html
	$(SNAKEMAKE) rows='$(ROWS)'

study-extended: .venv/ready  ## what the paper leaves out: augmentation, label rules, losses and folds, three seeds each
	$(SNAKEMAKE) group='$(GROUP)'

results: RULE = results
results: .venv/ready  ## complete make study if necessary and copy its tables to nbs/results, which is committed
	$(SNAKEMAKE) rows='$(ROWS)'

results-extended: RULE = results
results-extended: .venv/ready  ## the same for make study-extended GROUP=...
	$(SNAKEMAKE) group='$(GROUP)'

test-study: .venv/ready  ## the graph of a small study: interrupted and resumed, a failing training, two pretended GPUs
	$(BIN)/python tests/study.py

test-slurm: .venv/ready  ## rows of Table 2 through Slurm on this machine, and without it; as root; five minutes
	$(BIN)/python tests/slurm.py

bench: runs/bench.json  ## speed beside what one would use instead, into nbs/results/bench.json; on a quiet machine, about eight minutes
	cp $< nbs/results/bench.json

bench-check: runs/bench.json  ## the same, compared: fails where a ratio is below 80 % of the committed one
	$(BIN)/python -m cxrlt_nb.bench.figures $< nbs/results/bench.json

.PHONY: runs/bench.json
runs/bench.json: .venv/ready
	@mkdir -p runs && rm -f $@
	for o in 01_input 02_training 03_evaluation; do $(BIN)/papermill --stdout-file - --log-level WARNING --no-progress-bar nbs/bench/$$o.ipynb runs/bench_$$o.ipynb -p out $(CURDIR)/$@ || exit 1; done

docs: .venv/ready docs/node_modules/ready  ## the site, into _site/: nothing is run; KaTeX comes from npm
	$(BIN)/python docs/build.py

test-docs: docs  ## the site as a reader has it, in Chromium, on a desktop and on a phone, light and dark
	$(BIN)/pytest tests/browse.py

docs/node_modules/ready: docs/package.json docs/package-lock.json
	@command -v npm > /dev/null || { echo 'npm is missing: apt-get install npm, or any Node 18 or later' >&2; exit 1; }
	npm ci --prefix docs --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

export: .venv/ready  ## notebooks to modules, clean notebooks, README
	$(BIN)/ruff format --quiet nbs tests docs setup.py
	$(BIN)/nbdev-export
	$(BIN)/ruff format --quiet cxrlt_nb
	$(BIN)/nbdev-clean
	$(BIN)/python tests/readme.py

lock: .venv/ready  ## every version with its hashes, for Linux and Python 3.11 to 3.13
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml -o requirements.lock

.venv/ready: requirements.lock settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is wanted, {v[0]}.{v[1]} found; say PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

compare-nih: .venv/ready  ## ImageNet weights against scratch on real radiographs: make compare-nih ROOT=/data/nih
	$(BIN)/python tests/nih.py $(ROOT)

ensemble-report: .venv/ready  ## folds, TTA, fold mean, blend and study mean from saved predictions: make ensemble-report RUNS="runs/a runs/b …"
	$(BIN)/python tests/folds_report.py $(RUNS)

leakage-study: .venv/ready  ## what folds that share patients do to a measured mAP: ten small runs, about ten minutes
	$(BIN)/python tests/leakage_study.py
