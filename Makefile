# Every target does its own set-up and skips what is done. EXTRA=gpu installs the CUDA build.
EXTRA ?= cpu
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
ADAPTERS ?= adapters
ARGS ?=
BIN := .venv/bin

.PHONY: install serve test check bench

install: .venv/installed-$(EXTRA)

.venv/installed-$(EXTRA): pyproject.toml deploy/install.sh
	PYTHON="$(PYTHON)" EXTRA="$(EXTRA)" bash deploy/install.sh
	touch $@

serve: install
	$(BIN)/steer-server serve --host $(HOST) --port $(PORT) --adapters $(ADAPTERS) $(ARGS)

test: install check
	$(BIN)/steer-server model fetch
	$(BIN)/pytest $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/steer-server model fetch
	$(BIN)/steer-server bench throughput $(ARGS)
