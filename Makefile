.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal
GPU_PYTHON ?= 3.12
GPU_WHEELS ?= diffusers filelock hydra-core 'importlib-metadata<9' mlxtend omegaconf zipp

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/demo ## install, train on digits for two minutes, print the folder of the figures
	$(BIN)/python scripts/train.py experiment=quickstart

test: .venv/test lint ## install the test dependencies, check style and types, run the quick tests
	$(PYTEST) -m 'not slow'

test-slow: .venv/test ## run the slow tests: large networks, killed processes, the wheel, ONNX, a simulated GPU
	$(PYTEST) -m 'slow and not exhaustive'

test-exhaustive: .venv/test ## run the further settings of what the other tests try with some
	$(PYTEST) -m exhaustive

test-all: test test-slow test-exhaustive ## run all tests

test-lowest: .venv-lowest/installed ## run the quick tests with the lowest supported versions (downloads gigabytes)
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m 'not slow' -n $(TEST_PROCESSES) --dist worksteal

lint: .venv/test ## check style and types with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: .venv/demo ## show all runs in TensorBoard
	$(BIN)/tensorboard --logdir logs

combinations: .venv/demo ## write docs/combinations.md (compatible parts) and sampler_order.png (convergence of samplers)
	$(BIN)/python -m diffusion_lab.tools.combinations
	$(BIN)/python -m diffusion_lab.tools.sampler_order

objectives: .venv/demo ## train six objectives for a minute each, and plot their samples in one figure
	rm -rf logs/objectives
	$(BIN)/python scripts/train.py -m experiment=one_minute model=flow,edm,score_matching \
		hydra.sweep.dir=logs/objectives/own
	$(BIN)/python scripts/train.py -m experiment=one_minute model=ddpm noise_schedule=cosine \
		prediction=epsilon,v_prediction,sample hydra.sweep.dir=logs/objectives/ddpm
	$(BIN)/python scripts/gallery.py docs/objectives.png \
		logs/objectives/own/[0-9] logs/objectives/ddpm/[0-9]

# without the reference, which is computed from the user's data
evaluator: .venv/demo ## train a new feature extractor to ship: make evaluator VERSION=fashion_mnist_v1 EVALUATOR='data=fashion_mnist'
	$(BIN)/python scripts/train_extractor.py version=$(VERSION) $(EVALUATOR)
	cp $(addprefix logs/extractors/$(VERSION)/$(VERSION).,json safetensors) diffusion_lab/evaluation/weights/

ladder: .venv/demo ## train from the tutorial's toy to DDPM, one change at a time, three seeds: table and figure
	$(BIN)/python scripts/ladder.py

bench: .venv/demo ## measure speed and memory against a plain PyTorch baseline, in ten minutes
	$(BIN)/python scripts/benchmark.py

# with WHEELS=wheels nothing is downloaded: only this folder and PYTHON's own packages are used
gpu-check: $(if $(WHEELS),.gpu-site,.venv/demo) ## check results and speed on an NVIDIA GPU in eight minutes; writes gpu_check.md
	$(if $(WHEELS),PYTHONPATH=$(CURDIR)/.gpu-site $(PYTHON),$(BIN)/python) -m tests.gpu_check $(GPU_CHECK)

.gpu-site: $(wildcard $(WHEELS)/*.whl)
	rm -rf $@
	$(PYTHON) -m pip install --quiet --no-index --no-deps --target $@ $(WHEELS)/*.whl

gpu-wheels: ## download wheels/ for a GPU machine without a network: make gpu-wheels GPU_PYTHON=3.12
	$(if $(filter $(GPU_PYTHON),3.11 3.12 3.13),,$(error GPU_PYTHON=$(GPU_PYTHON): expected 3.11, 3.12 or 3.13))
	rm -rf wheels.part
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir wheels.part antlr4-python3-runtime==4.9.3
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) \
		$(addprefix --platform manylinux,2014_x86_64 _2_17_x86_64 _2_27_x86_64 _2_28_x86_64) \
		--constraint constraints.txt --dest wheels.part $(GPU_WHEELS) $(MORE_WHEELS)
	git rev-parse HEAD > wheels.part/commit
	rm -rf wheels
	mv wheels.part wheels

floor: .venv/demo ## score real and degraded images, to check that the metrics agree with the eye
	$(BIN)/python -m diffusion_lab.tools.metric_sanity

torture: .venv/test ## kill a training 100 times, resume it, compare every tensor with an uninterrupted run
	$(BIN)/python -m tests.training.torture logs/torture --kills 100

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/test: .venv/demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,wandb,mlflow,onnx]'
	@touch $@

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[onnx,test]'
	@touch $@

.PHONY: help demo test test-slow test-all test-lowest gpu-check gpu-wheels lint tensorboard combinations objectives bench evaluator floor ladder torture
