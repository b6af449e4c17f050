# `make quickstart` and `make test` start from nothing and reuse what is there.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
COMPILE := $(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --custom-compile-command 'make lock' --extra all

.PHONY: libtpu quickstart test test-slow slurm lint lock clean clean-data-and-runs bench-state bench-quickstart bench-learner bench-loader bench-memory bench-serving \
	metaworld-tries metaworld-grid metaworld-values metaworld-states metaworld-benchmark metaworld-ablations metaworld-images scene-benchmark metaworld-report plan-sizes plan-experiments

QT := $(PY) -m qt_jax
QUICKSTART := experiments/quickstart.py

quickstart: runs/quickstart/q_transformer/evaluation.json
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

test: $(STAMP) .base/.installed .openpi/.installed lint
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(PY) -m pytest -m tensorflow

# What takes minutes and proves a rare thing; run it before a release.
test-slow: $(STAMP) libtpu .beam/.installed .onnx/.installed .rerun/.installed
	$(PY) -m pytest -m slow

# A SLURM of two nodes on loopback, from Debian's packages.
slurm: $(STAMP) /usr/sbin/slurmctld /usr/sbin/slurmd
	$(PY) -m pytest -m slurm tests/launch

/usr/sbin/slurmctld /usr/sbin/slurmd:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurmctld slurmd slurm-client munge

lint: $(STAMP)
	$(VENV)/bin/ruff check qt_jax experiments launch benchmarks tests
	$(VENV)/bin/lint-imports --no-logo

bench-state: $(STAMP)
	$(PY) -m benchmarks.bench_state

bench-quickstart: data/quickstart/1.0.0
	$(PY) -m benchmarks.bench_quickstart

bench-learner: $(STAMP) .peer/.installed
	$(PY) -m benchmarks.bench_learner

bench-loader: data/quickstart/1.0.0
	$(PY) -m benchmarks.bench_loader

bench-memory: $(STAMP)
	$(PY) -m benchmarks.bench_memory

bench-serving: $(STAMP) .peer/.installed .onnx/.installed
	$(PY) -m benchmarks.bench_serving

# The diagnosis and the benchmark (experiments/diagnosis.md): hours; each goes on where it was stopped.
metaworld-tries: $(STAMP)
	$(PY) -m benchmarks.claim tries

metaworld-grid: $(STAMP)
	$(PY) -m benchmarks.claim grid
	$(PY) -m benchmarks.metaworld_grid

metaworld-values: $(STAMP)
	$(PY) -m benchmarks.metaworld_values

metaworld-states: $(STAMP)
	$(PY) -m benchmarks.metaworld_states

metaworld-benchmark: $(STAMP)
	$(PY) -m benchmarks.claim benchmark

metaworld-ablations: $(STAMP)
	$(PY) -m benchmarks.claim ablations

metaworld-images: $(STAMP)
	$(PY) -m benchmarks.metaworld_images

scene-benchmark: $(STAMP)
	$(PY) -m benchmarks.claim scene
	$(PY) -m benchmarks.claim scene_ablations

metaworld-report: .plots/.installed
	.plots/bin/python -m benchmarks.metaworld_report

plan-sizes: $(STAMP) libtpu
	$(PY) -m benchmarks.plan_sizes

plan-experiments: $(STAMP) libtpu
	$(PY) -m benchmarks.plan_experiments

# What a robot has: the base dependencies alone; and openpi-client, whose numpy is older.
.base/.installed: setup.cfg | $(STAMP)
	$(PYTHON) -m venv --clear .base
	.base/bin/pip install --quiet --editable .
	touch $@

.openpi/.installed: | $(STAMP)
	$(PYTHON) -m venv --clear .openpi
	.openpi/bin/pip install --quiet openpi-client==0.1.2 typing_extensions  # which it needs and does not declare
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
	$(PY) -m pip install --quiet --require-hashes -r requirements.txt
	$(PY) -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

# The extra `beam` in a venv of its own: Apache Beam lowers protobuf to 6, the lock has 7.
.beam/.installed: setup.cfg | $(STAMP)
	$(PY) -m pip install --quiet uv
	$(VENV)/bin/uv venv --quiet --clear --python $(PY) .beam
	$(VENV)/bin/uv pip install --quiet --python .beam/bin/python --editable '.[data,sim,beam]'
	touch $@

# The extra `onnx` in a venv of its own, with our Orbax: jax2onnx asks for an older one and imports none.
.onnx/.installed: setup.cfg | $(STAMP)
	$(PY) -m pip install --quiet uv
	$(VENV)/bin/uv venv --quiet --clear --python $(PY) .onnx
	grep orbax-checkpoint setup.cfg | $(VENV)/bin/uv pip install --quiet --python .onnx/bin/python --override - --editable '.[train,onnx]'
	touch $@

# The extra `rerun` beside the venv, half a gigabyte with its viewer: PYTHONPATH=.rerun
.rerun/.installed: | $(STAMP)
	$(PY) -m pip install --quiet --no-deps --upgrade --target .rerun rerun-sdk==0.41.0
	touch $@

lock: $(STAMP)
	$(PY) -m pip install --quiet uv
	$(COMPILE) setup.cfg -o requirements.txt
	echo 'jax[cuda13]' | $(COMPILE) setup.cfg - -o requirements-cuda.txt
	echo 'jax[tpu]' | $(COMPILE) setup.cfg - -o requirements-tpu.txt

# The TPU compiler alone, for `python -m qt_jax plan --topology=...` on machines without a TPU.
libtpu: $(STAMP)
	$(PY) -m pip install --quiet --no-deps --upgrade --target .libtpu libtpu==0.0.42.1

# What can be made again. Data and runs stay: `make clean-data-and-runs` is for them.
clean:
	rm -rf $(VENV) .base .openpi .beam .onnx .plots .rerun .peer .libtpu build *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find qt_jax experiments launch benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data-and-runs:
	rm -rf data runs
