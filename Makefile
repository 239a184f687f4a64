# make run    the whole chain on CPU, offline: notebooks 00 to 09, a table and an HTML report under runs/tiny/
# make test   ruff, mypy, pytest, and every notebook through nbval; installs the extras ray, app, browser, site besides
# make test-slow  what takes minutes: a run killed at twenty moments, one run in two clones, on Ray and on Colab, quick benchmarks
# make chat   a page on which the experts are asked; trains them first where there are none (some minutes)
# make site   the course as web pages that need no network, in site/; nothing is run, the stored outputs are shown
# make lab    JupyterLab on the first notebook
# make evidence  measures the paper's claims over three seeds (about an hour on 2 cores), benchmarks/results/evidence.json
# make mutate makes small changes of the code in a copy of the checkout; at least 95 % must fail a test (about 10 minutes)
# make bench  times the kernels beside their peers (about 45 minutes on 2 cores), benchmarks/results/
# make test-lowest · make test-newest  the unit tests with the lowest versions that pyproject.toml admits, or the newest
# make lint · make notebooks (run all in place and keep their outputs) · make exercises (from their solutions)
# make chinese  the Chinese edition of the notebooks, from notebooks/chinese/texts/ and the English ones with their outputs
# make fuzz   reads changed files for FUZZ_SECONDS (600), all readers or READERS="json parquet"; findings in FUZZ_OUT
# make dist   a wheel and an sdist in dist/, looked at
# make install · make clean

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= tiny
ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FOR_TESTS := $(VENV)/.for-tests
NOTEBOOKS := $(sort $(wildcard notebooks/0*.ipynb))
QUIET := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

# two processes; a file's tests stay together, since they share what was trained; tests/conftest.py sets the order
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder

TORCH ?= $(shell grep -o '^torch==[0-9.]*' .ci/constraints.txt)

.PHONY: run chat site test test-slow test-lowest test-newest mutate fuzz lab lint notebooks exercises chinese bench evidence dist install clean

run: $(INSTALLED)
	$(QUIET) $(BIN)/python -m assl_kit.app.cli run --profile $(PROFILE) $(ARGS)

BANK := $(or $(ASSL_RUNS),runs)/$(PROFILE)/experts/bank.json

# make chat ARGS="--port 8000"; what is there is asked as it is, whatever has changed since
chat: $(INSTALLED)
	@$(BIN)/python -c "import gradio" 2>/dev/null || $(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[app]"
	@test -f $(BANK) || $(QUIET) $(BIN)/python -m assl_kit.app.cli run --profile $(PROFILE) --to 06
	$(QUIET) $(BIN)/python -m assl_kit.app.cli chat --run $(PROFILE) --open $(ARGS)

# the notebooks run beside the tests; what they say comes last
test: lint $(FOR_TESTS)
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(QUIET) ASSL_WORKSPACE="$$folder/runs/lab" $(BIN)/python -m pytest -q --nbval-lax --nbval-current-env \
		--nbval-sanitize-with tests/nbval.cfg $(NOTEBOOKS) > "$$folder/notebooks" 2>&1 & books=$$!; \
	$(QUIET) $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --durations=20 -m "not slow"; tests=$$?; \
	wait $$books; told=$$?; cat "$$folder/notebooks"; exit $$((tests | told))

test-slow: $(FOR_TESTS)
	$(QUIET) $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m slow $(ARGS)

lint: $(INSTALLED)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check assl_kit tests benchmarks
	$(BIN)/python -m mypy
	$(BIN)/python -m codespell_lib

test-lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install -q -c .venv-lowest/constraints.txt \
		-e ".[$$(.venv-lowest/bin/python .ci/lowest.py --extras)]"
	$(QUIET) .venv-lowest/bin/python -m pytest -q $(SIDE_BY_SIDE)

# torch stays the tested one; make test-newest TORCH=torch takes the newest of it too
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install -q "$(TORCH)" -e ".[$$(.venv-newest/bin/python .ci/lowest.py --extras)]"
	$(QUIET) .venv-newest/bin/python -m pytest -q $(SIDE_BY_SIDE)

# ARGS="--only evaluation", "--only WORD --again", "--jobs 2"
mutate: $(FOR_TESTS)
	$(QUIET) $(BIN)/python -m tests.mutations $(ARGS)

lab: $(INSTALLED)
	$(BIN)/python -m jupyter lab notebooks/00_start_here.ipynb

notebooks: $(INSTALLED)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(QUIET) ASSL_WORKSPACE="$$folder/runs/lab" $(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS)
	$(BIN)/python notebooks/make_chinese.py

exercises: $(INSTALLED)
	$(BIN)/python notebooks/make_exercises.py

# ARGS=--update takes changed English texts over, to be translated
chinese: $(INSTALLED)
	$(BIN)/python notebooks/make_chinese.py $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks.kernels $(ARGS)

evidence: $(INSTALLED)
	$(QUIET) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evidence $(ARGS)
	$(BIN)/python -m benchmarks.evidence.table

FUZZ_SECONDS ?= 600
FUZZ_SEED ?= 0
FUZZ_OUT ?= $(CURDIR)/build/fuzz
READERS ?=

fuzz: $(INSTALLED)
	cd tests && $(QUIET) $(abspath $(BIN))/python -m fuzz.hunt --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) --out $(FUZZ_OUT) $(READERS)

install: $(INSTALLED)

$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(v < (3, 10) and f'Python 3.10 or newer is needed, this is {v[0]}.{v[1]}: make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[notebooks,train,dev]"
	touch $@

$(FOR_TESTS): $(INSTALLED)
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[ray,app,browser,site]"
	touch $@

site: $(INSTALLED)
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[site]"
	$(BIN)/python docs/site/build.py site
	@echo "look at it: $(BIN)/python -m http.server --bind 127.0.0.1 -d site"

dist:
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-dist
	.venv-dist/bin/python -m pip install -q build
	.venv-dist/bin/python -m build
	.venv-dist/bin/python .ci/check_dist.py dist

clean:
	rm -rf $(VENV) .venv-dist .venv-lowest .venv-newest build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
