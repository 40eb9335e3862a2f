# Every command makes the environment it needs; `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST_TRANSFORMERS := 5.18.0
OLDEST := $(VENV)-transformers-$(OLDEST_TRANSFORMERS)
CODE := *.py tests training scripts benchmarks

.PHONY: demo test test-slow test-oldest lint style train evaluate bench

demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

# The oldest supported transformers, in a folder of its own before the newest on the path.
test-oldest: $(OLDEST)/installed
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest tests/test_remote_code.py tests/test_modeling.py tests/test_processing.py \
	  tests/test_image_processing.py tests/test_video_processing.py tests/test_tokenization.py tests/test_streaming.py

lint: $(VENV)/installed
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mlinter $(wildcard *.py)

style: $(VENV)/installed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

train: $(VENV)/installed
	$(BIN)/python -m training.train

evaluate: $(VENV)/installed
	$(BIN)/python -m training.evaluate --samples 200

# The figures of docs/performance.md, in less than 20 minutes on two cores, and its plots. The long stream's products
# are too small for several threads, which would wait for each other wherever a core is shared.
bench: $(VENV)/installed
	$(BIN)/python benchmarks/preprocessing.py
	$(BIN)/python benchmarks/tower.py --repeats 8
	$(BIN)/python benchmarks/first_token.py --repeats 3
	$(BIN)/python benchmarks/long_stream.py --threads 1
	$(BIN)/python benchmarks/plot.py

$(VENV)/installed: requirements.txt requirements-training.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

$(OLDEST)/installed: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(OLDEST) transformers==$(OLDEST_TRANSFORMERS)
	touch $@
