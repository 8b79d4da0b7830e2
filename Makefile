# make demo    sets everything up and builds a real bundle
# make test    runs the tests
# make check   format, lint, strict types, import layers
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/tlcompile build recipes/quickstart.toml
	$(BIN)/tlcompile verify dist/digits

# Two processes: training in one that has opened engines of every backend before crashed in native code (benchmarks/LOG.md).
# A build never does that either: engines run in processes of their own.
test: $(READY)
	$(BIN)/python -m pytest --ignore=tests/train
	$(BIN)/python -m pytest tests/train

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# tensorrt-stubs only types; its own requirement is the full TensorRT, which is not wanted for that.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,rtx,demo,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt tensorrt-stubs
	touch $@

clean:
	rm -rf .tlcompile dist build *.egg-info
