# `make quickstart` and `make test` start from nothing and reuse what is there; `make` lists all targets.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CODE := qt_jax experiments launch benchmarks examples tests docs/conf.py
# With bytecode, as pip does: where PYTHONDONTWRITEBYTECODE is set, each process would compile all that it imports.
# And with the machine's own certificates, which a company's network may need.
UV := UV_COMPILE_BYTECODE=1 UV_SYSTEM_CERTS=1 $(VENV)/bin/uv
# Into a venv, by uv, which takes seconds for what takes pip more than a minute; or by pip, where only pip.conf knows the index.
install = $(UV) pip install --quiet --python $(1)/bin/python $(2) || $(PY) -m pip --python $(1)/bin/python install --quiet $(2)
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --custom-compile-command 'make lock' --extra all

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-most test-tensorflow test-slow slurm lint types imports coverage docs dist release-check lock libtpu clean clean-data-and-runs \
	bench-state bench-start bench-gpu bench-quickstart bench-backups bench-networks bench-decisions bench-learner bench-loader bench-scale bench-video bench-memory bench-serving bench-load bench-onnx \
	metaworld-tries metaworld-grid metaworld-gates metaworld-values metaworld-states metaworld-benchmark metaworld-people metaworld-ablations metaworld-images metaworld-mislabelled metaworld-rank metaworld-rest metaworld-improve metaworld-eyes scene-benchmark ogbench advise-rule metaworld-report rooflines plan-sizes plan-experiments pictures

QT := $(PY) -m qt_jax
QUICKSTART := experiments/quickstart.py

help:  ## List the targets
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "  %-22s%s\n", $$1, $$2}' Makefile

quickstart: runs/quickstart/q_transformer/evaluation.json  ## Collect, train and evaluate a policy from images and language (10 minutes)
	@cat runs/quickstart/q_transformer/evaluation.txt
	@echo "report: runs/quickstart/q_transformer/report.html"

data/quickstart/1.0.0: | $(STAMP)
	$(QT) collect --config=$(QUICKSTART)

runs/quickstart/bc/evaluation.json: | data/quickstart/1.0.0
	$(QT) train --config=$(QUICKSTART):bc
	$(QT) evaluate --config=$(QUICKSTART):bc

runs/quickstart/q_transformer/evaluation.json: | runs/quickstart/bc/evaluation.json
	$(QT) train --config=$(QUICKSTART)
	$(QT) evaluate --config=$(QUICKSTART) --config.evaluate.references="('runs/quickstart/bc',)"

# Two things at a time on two cores, the longest last: it is two processes itself. Those of TensorFlow are a
# process of their own: see setup.cfg.
test: $(STAMP) .base/.installed .openpi/.installed  ## Run lint, docs and the tests
	$(MAKE) --no-print-directory --jobs=2 lint docs test-tensorflow test-most

test-most: $(STAMP)  ## Run the tests alone
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-tensorflow: $(STAMP)  ## Run the tests that import TensorFlow
	$(PY) -m pytest -m tensorflow tests/data/test_rlds.py

# What takes minutes and proves a rare thing; run it before a release.
test-slow: $(STAMP) libtpu .beam/.installed .onnx/.installed .robot/.installed .rerun/.installed .lerobot/.installed .lerobot21/.installed  ## Run the tests that take minutes each, in environments of their own
	$(PY) -m pytest -m slow

# A SLURM of two nodes on loopback, from Debian's packages.
slurm: $(STAMP) /usr/sbin/slurmctld /usr/sbin/slurmd  ## Run the tests that need a SLURM: two nodes on loopback, from Debian's packages
	$(PY) -m pytest -m slurm tests/launch

/usr/sbin/slurmctld /usr/sbin/slurmd:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurmctld slurmd slurm-client munge

lint: $(STAMP)  ## Check style, layout, import contracts and types
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m mypy

types: $(STAMP)  ## Check types alone
	$(PY) -m mypy

imports: $(STAMP)  ## Print which rooms import which, and the circles
	$(PY) -m benchmarks.imports

# Processes that the tests start are counted too, where they run in this environment and end by themselves.
coverage: $(STAMP) .base/.installed .openpi/.installed  ## Run the tests, count the lines that ran: htmlcov/index.html
	$(PY) -m pytest -n 2 --dist loadfile --cov --cov-report=
	$(PY) -m pytest -m tensorflow --cov --cov-append --cov-report=html --cov-report=term:skip-covered

# Afresh, since a page that is not read again gives no warning.
docs: $(STAMP)  ## Build the documentation site: site/index.html; a warning is an error
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs . site
	cp site/README.html site/index.html

dist: $(STAMP)  ## Build the wheel and the source distribution
	$(PY) -m build --outdir dist

release-check: $(STAMP) .release/.installed  ## Check what would be published: distributions, each extra in a venv of its own, licences
	$(PY) -m pytest -m release -n 0 tests/test_release.py

.release/.installed: | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .release
	$(call install,.release,twine cyclonedx-bom pip-licenses)
	touch $@

bench-state: $(STAMP)  ## Measure state-only MT10: Q-Transformer against behaviour cloning
	$(PY) -m benchmarks.bench_state

bench-quickstart: data/quickstart/1.0.0  ## Measure the quickstart over several training seeds
	$(PY) -m benchmarks.bench_quickstart

bench-decisions: $(STAMP)  ## Measure a decision of several networks, of chunks and of drawn actions
	$(PY) -m benchmarks.bench_decisions

bench-learner: $(STAMP) .peer/.installed  ## Measure the train step, and the PyTorch peer beside it
	$(PY) -m benchmarks.bench_learner

bench-start: $(STAMP)  ## Measure what a run computes before its first step
	$(PY) -m benchmarks.bench_start

bench-gpu: $(STAMP)  ## Measure one accelerator: steps, attention, decisions, a fleet of small runs
	$(PY) -m benchmarks.bench_gpu

bench-backups: $(STAMP)  ## Measure a train step with each backup
	$(PY) -m benchmarks.bench_backups

bench-networks: $(STAMP)  ## Measure a train step of several networks
	$(PY) -m benchmarks.bench_networks

bench-loader: data/quickstart/1.0.0  ## Measure the data pipeline against a bare decode loop
	$(PY) -m benchmarks.bench_loader

bench-scale: $(STAMP)  ## Measure the index, the start and the memory of 300,000 episodes, and the loader by workers and threads
	$(PY) -m benchmarks.bench_scale

bench-video: $(STAMP)  ## Measure frames decoded from the videos of LeRobot folders against a bare decode loop
	$(PY) -m benchmarks.bench_video

bench-memory: $(STAMP)  ## Measure the memory of the reading processes
	$(PY) -m benchmarks.bench_memory

bench-serving: $(STAMP) .peer/.installed .onnx/.installed  ## Measure a control step from the program to the socket
	$(PY) -m benchmarks.bench_serving

bench-onnx: $(STAMP) .onnx/.installed  ## Measure the precisions of ONNX programs: size, a control step, agreement
	$(PY) -m benchmarks.bench_onnx

# Shorter, or other numbers: .venv/bin/python -m benchmarks.bench_load --seconds=60 --sessions=16 --hz=10
bench-load: $(STAMP)  ## Measure a server under 64 robots at 30 Hz for ten minutes: latency, refusals, memory
	$(PY) -m benchmarks.bench_load

# The diagnosis and the benchmark (experiments/diagnosis.md): hours; each goes on where it was stopped.
metaworld-tries: $(STAMP)  ## Run what the diagnosis tried (hours)
	$(PY) -m benchmarks.claim tries

metaworld-grid: $(STAMP)  ## Run the grid of the diagnosis (hours)
	$(PY) -m benchmarks.claim grid
	$(PY) -m benchmarks.metaworld_grid

metaworld-gates: $(STAMP)  ## Run what each part of the method is worth (hours)
	$(PY) -m benchmarks.claim gates

metaworld-values: $(STAMP)  ## Run the diagnosis of the values (hours)
	$(PY) -m benchmarks.metaworld_values

metaworld-states: $(STAMP)  ## Run the diagnosis of states that were not trained on (hours)
	$(PY) -m benchmarks.metaworld_states

metaworld-benchmark: $(STAMP)  ## Run the benchmark from states (hours)
	$(PY) -m benchmarks.claim benchmark

metaworld-people: $(STAMP)  ## Run the recipes with demonstrations of people (hours)
	$(PY) -m benchmarks.claim people

metaworld-ablations: $(STAMP)  ## Run the ablations (hours)
	$(PY) -m benchmarks.claim ablations

metaworld-images: $(STAMP)  ## Run the benchmark from images (hours)
	$(PY) -m benchmarks.metaworld_images

metaworld-mislabelled: $(STAMP)  ## Count the wrong labels that `score` finds (an hour)
	$(PY) -m benchmarks.metaworld_mislabelled

metaworld-rank: $(STAMP)  ## Measure Q-Transformer ranking the draws of imitations (hours)
	$(PY) -m benchmarks.metaworld_rank

metaworld-rest: $(STAMP)  ## Count how often policies rest where people do (an hour)
	$(PY) -m benchmarks.metaworld_rest

metaworld-improve: $(STAMP)  ## Run what rounds of experience are worth (hours)
	$(PY) -m benchmarks.metaworld_improve

metaworld-eyes: $(STAMP)  ## Run what pretrained image encoders are worth (hours)
	$(PY) -m benchmarks.metaworld_eyes

scene-benchmark: $(STAMP)  ## Run the second suite and its ablations (hours)
	$(PY) -m benchmarks.claim scene
	$(PY) -m benchmarks.claim scene_ablations

# One row: make ogbench ROW=scene-play,iql,task2,0
ogbench: $(STAMP)  ## Run OGBench's single-task benchmark (days), or ROW=SET,METHOD,TASK,SEED
	$(PY) -m benchmarks.ogbench $(ROW)

metaworld-report: .plots/.installed  ## Write the tables and figures of docs/results.md
	.plots/bin/python -m benchmarks.metaworld_report

advise-rule: $(STAMP)  ## Fit the rule of `advise` on the benchmark, and test it on recipes that are left out (hours without the pools)
	$(PY) -m benchmarks.advise_rule

runs/tour/q_transformer/report.html: | $(STAMP)
	$(PY) examples/tour.py

# With Chromium (Debian: apt-get install chromium); the others are metaworld-report's.
pictures: runs/quickstart/q_transformer/evaluation.json runs/tour/q_transformer/report.html  ## Make the pictures of README and docs/robot.md, of the runs of quickstart and tour
	$(PY) -m benchmarks.pictures

rooflines: $(STAMP)  ## Say what binds the train step with each image encoder, on each kind of chip
	$(PY) -m benchmarks.rooflines

plan-sizes: $(STAMP) libtpu rooflines  ## Plan the network sizes on devices that are not there
	$(PY) -m benchmarks.plan_sizes

plan-experiments: $(STAMP) libtpu  ## Plan each experiment on devices that are not there
	$(PY) -m benchmarks.plan_experiments

# What a robot has: the base dependencies alone; and openpi-client, whose numpy is older.
.base/.installed: setup.cfg | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .base
	$(call install,.base,--editable .)
	touch $@

# A robot's Python, with the client and ONNX policies and without jax; the oldest onnxruntime and numpy that we say.
.robot/.installed: setup.cfg | $(STAMP)
	$(UV) venv --quiet --clear --python 3.10 .robot
	$(call install,.robot,--editable . 'onnxruntime==1.17.*' 'numpy<2' msgpack websockets)
	touch $@

.openpi/.installed: | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .openpi
	$(call install,.openpi,openpi-client==0.1.2 typing_extensions)  # which it needs and does not declare
	touch $@

# rliable's plots want an older pandas than the rest.
.plots/.installed:
	$(PYTHON) -m venv .plots
	.plots/bin/pip install --quiet rliable==1.2.0 arch==7.2.0 'pandas<3'
	touch $@

# The PyTorch peer in a venv of its own. Where PyPI's torch is not wanted: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
.peer/.installed:
	$(PYTHON) -m venv .peer
	.peer/bin/pip install --quiet q-transformer==0.5.0 torch==2.13.0
	.peer/bin/pip uninstall --quiet --yes torchvision  # which does not load beside a CPU torch, and which nothing here needs
	touch $@

$(STAMP): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("qt_jax needs Python >= 3.11, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet uv==0.13.9
	$(call install,$(VENV),--require-hashes -r requirements.txt)
	$(call install,$(VENV),--no-deps --editable .)
	touch $(STAMP)

# The extra `beam` in a venv of its own: Apache Beam lowers protobuf to 6, the lock has 7.
.beam/.installed: setup.cfg | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .beam
	$(UV) pip install --quiet --python .beam/bin/python --editable '.[data,sim,beam]'
	touch $@

# The extra `onnx`, whose jax2onnx asks for an older Orbax.
.onnx/.installed: setup.cfg | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .onnx
	$(UV) pip install --quiet --python .onnx/bin/python --editable '.[onnx]'
	touch $@

# LeRobot: its writers of versions 3.0 and 2.1, each with a PyTorch, and the robot of our example. Where PyPI's, of several gigabytes, is not wanted:
# UV_TORCH_BACKEND=cpu
.lerobot/.installed: | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .lerobot
	$(UV) pip install --quiet --python .lerobot/bin/python 'lerobot[feetech]==0.4.4' msgpack websockets
	touch $@

.lerobot21/.installed: | $(STAMP)
	$(UV) venv --quiet --clear --python $(PY) .lerobot21
	$(UV) pip install --quiet --python .lerobot21/bin/python lerobot==0.3.3
	touch $@

# The extra `rerun` beside the venv, half a gigabyte with its viewer: PYTHONPATH=.rerun
.rerun/.installed: | $(STAMP)
	$(PY) -m pip install --quiet --no-deps --upgrade --target .rerun rerun-sdk==0.41.0
	touch $@

lock: $(STAMP)  ## Renew the three locks of the requirements
	$(COMPILE) setup.cfg -o requirements.txt
	echo 'jax[cuda13]' | $(COMPILE) setup.cfg - -o requirements-cuda.txt
	echo 'jax[tpu]' | $(COMPILE) setup.cfg - -o requirements-tpu.txt

# The TPU compiler alone, for `python -m qt_jax plan --topology=...` on machines without a TPU.
libtpu: $(STAMP)  ## Install the TPU compiler alone, for `plan` on machines without a TPU
	$(PY) -m pip install --quiet --no-deps --upgrade --target .libtpu libtpu==0.0.42.1

clean:  ## Remove what can be made again; data and runs stay
	rm -rf $(VENV) .base .openpi .robot .release .beam .onnx .lerobot .lerobot21 .plots .rerun .peer .libtpu build dist site htmlcov
	rm -rf *.egg-info .coverage* .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find qt_jax experiments launch benchmarks examples docs tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data-and-runs:  ## Remove data/, runs/ and the packs of experiments in .fleet
	rm -rf data runs .fleet
