# make train: install and train the default experiment. make test: install and run the tests. Nothing else is needed.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# Without its own build isolation pip would download torch's newest release; the constraints name what was tested.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test check format clean

train: .venv/installed
	$(BIN)/dien-train $(ARGS)

# A module's tests stay in one process: some share a training.
test: .venv/installed-dev
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file makes a second call instant; a changed list of dependencies installs again.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv (once, about two minutes) ..."
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the development tools into .venv (once) ..."
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps torchrec fbgemm-gpu-cpu || echo "without TorchRec: the tests of model.embedding=sharded will be skipped"
	touch $@
