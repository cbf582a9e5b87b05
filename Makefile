# What a developer types; `make help` lists it. Needs Python 3.11 or later, make and git, nothing else.

SHELL := /bin/bash
.DEFAULT_GOAL := quick
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
# What running needs, and what working on it needs besides.
INSTALLED := $(VENV)/.runs
STAMP := $(VENV)/.installed
# The first Python that is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(firstword $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p; done))

# Installs into the environment: by the Python's own pip, else by one that the environment gets, which takes 5 s of CPU.
OWN_PIP = $(PYTHON) -m pip --python "$$(command -v $(PYTHON))" --version >/dev/null 2>&1
INSTALL = $$(test -x $(BIN)/pip && echo $(BIN)/python -m pip || echo $(PYTHON) -m pip --python $(BIN)/python) \
	install --quiet --disable-pip-version-check
# uv takes 2 s of CPU where pip takes 17, and 3 to be installed itself. Pip does it where uv cannot be had, or does not know the
# index that pip is told of.
QUICKLY = { $(INSTALL) --no-compile uv && UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python \
	--requirement $(VENV)/needs.txt; } 2>/dev/null
# The server runs from the checkout, which a file of paths names to its parsing processes: they look nowhere else (python -P).
# Installing it would build it, in an environment of its own: 4 s of CPU.
NEEDS = import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["dependencies"], *project["optional-dependencies"]["embedded"], sep="\n")
HERE = import os, sysconfig; \
	open(os.path.join(sysconfig.get_path("purelib"), "checkout.pth"), "w").write(os.getcwd() + "\n")

# Compiled modules are kept whatever the shell says: pytest takes 6 s a process to compile its tests anew, and each server or
# command that a test starts 0.2 s of its 0.5 to compile ours.
export PYTHONDONTWRITEBYTECODE :=

# Tests at the same time: one more than CPUs, since a whole server's test waits for half of its time.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

# What `make run` serves: NAME=SOURCE, as `cacheserver serve --catalog` takes it.
SOURCE ?= example=examples/catalogs
# Instead, a file or directory of Repository manifests, as --repositories takes it.
REPOSITORIES ?=
LISTEN ?= 127.0.0.1:8001

.PHONY: quick check unit etcd e2e node hostile authors test run bench figures image audit proto docs clean help

quick: check unit ## check and unit tests (the default)

check: $(STAMP) ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP) ## tests that need no network and no etcd
	$(BIN)/python -m pytest tests/unit -m "not processes" -n auto --dist loadfile

etcd: $(STAMP) ## tests on a real etcd
	$(BIN)/python -m pytest tests/etcd

e2e: $(STAMP) ## tests of whole servers with real clients
	$(BIN)/python -m pytest tests/e2e

hostile: $(STAMP) ## attacks on a whole server, in full size: minutes
	CACHESERVER_TEST_HOSTILE=1 $(BIN)/python -m pytest tests/hostile -s

# In a network of its own, so that its addresses and its packet filter are nobody else's.
node: $(STAMP) ## our image and manifests on a kubelet, as root: minutes; CONTRIBUTING.md says what it needs
	unshare --net $(BIN)/python -m pytest tests/node

authors: $(STAMP) ## 2,000 steps of authors at random, with crashes: minutes; SEEDS=1,2,3 make authors
	AUTHORS_STEPS=2000 AUTHORS_SEEDS="$(or $(SEEDS),1)" $(BIN)/python -m pytest tests/e2e/test_random_authoring.py -s

test: check ## everything: check, unit, etcd, e2e
	$(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile

run: $(INSTALLED) ## serve the examples with an etcd of its own; SOURCE=name=path make run serves another catalog
	$(BIN)/python -m cacheserver serve $(if $(REPOSITORIES),--repositories "$(REPOSITORIES)",--catalog "$(SOURCE)") --listen "$(LISTEN)" --data-dir data --interval 10s --log-format text

bench: $(STAMP) ## the figures of docs/figures.md
	$(BIN)/python -m bench

# PEERS="--peer opm=PATH ...", CATALOG=DIRECTORY and BUNDLE=FILE name what is compared; `python -m bench figures --help` says more.
# QUICK=1 tries whether all of it works, in minutes; RUNS, ROUNDS and SECONDS make it shorter or longer.
figures: $(STAMP) ## measure everything (most of an hour; again: what is left of it), and write the documents with figures
	@$(BIN)/python -m bench figures $(PEERS) $(if $(CATALOG),--catalog "$(CATALOG)") $(if $(BUNDLE),--bundle "$(BUNDLE)") \
		$(if $(QUICK),--quick) $(if $(RUNS),--runs $(RUNS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(ONLY),--only $(ONLY))

image: ## the container image, with docker or podman
	$$(command -v docker || command -v podman || echo docker) build --pull --tag cacheserver:dev .

audit: $(STAMP) ## known faults of the Python packages that we use, where the index can be asked for them
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && \
		build/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'; } || true
	@rm -f build/audit/found.json
	@PIPAPI_PYTHON_LOCATION=$(BIN)/python build/audit/bin/pip-audit --local --skip-editable --progress-spinner off \
		--format json --output build/audit/found.json || true
	@$(BIN)/python -m tools.audit build/audit/found.json

# By the oldest generator whose output every protobuf that pyproject.toml allows can run: newer ones demand newer runtimes.
proto: ## generate messages anew from the .proto files
	test -x build/proto/bin/python || $(PYTHON) -m venv build/proto
	build/proto/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.71.2'
	build/proto/bin/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. cacheserver/etcd/etcd.proto \
		cacheserver/compat/registry/registry.proto cacheserver/compat/registry/tools.proto

docs: $(STAMP) ## write docs/reference anew from the code
	$(BIN)/python -m tools.reference

clean: ## remove the environment, caches and data of `make run`
	rm -rf "$(VENV)" data build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

# The stamps are newer than pyproject.toml once everything is installed, so a second `make` starts at once. Whoever has the
# tools for tests has what running needs.
$(INSTALLED): pyproject.toml
	@$(MAKE) --no-print-directory $(VENV)/bin/python
	@test $(STAMP) -nt pyproject.toml || { echo "Installing cacheserver's libraries and an etcd into $(VENV): 60 MB to download, once. That takes some seconds, or half a minute." >&2; \
		$(BIN)/python -c '$(NEEDS)' >$(VENV)/needs.txt && { $(QUICKLY) || $(INSTALL) --no-compile --requirement $(VENV)/needs.txt; } \
		&& $(BIN)/python -c '$(HERE)'; }
	@touch $@

$(STAMP): pyproject.toml
	@$(MAKE) --no-print-directory $(VENV)/bin/python
	@echo "Installing cacheserver, an etcd and what the tests need into $(VENV): 80 MB to download, once. That takes a minute or so." >&2
	@$(INSTALL) --editable '.[test]' pip
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; none was found (make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $$($(OWN_PIP) && echo --without-pip) $(VENV)
