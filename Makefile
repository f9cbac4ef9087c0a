# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-all-versions schema reference docs chaos check format lint types layers clean

PYTHON ?= python3
BIN    := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed ## make .venv with negspace in it

install-dev: .venv/.installed-dev ## the same, with what tests and checks need

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "negspace needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing negspace into .venv …"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e .
	@touch $@

.venv/.installed-dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing negspace and its development tools into .venv …"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev]'
	@touch .venv/.installed $@

demo: .venv/.installed ## real images through the whole system, on an embedded PostgreSQL
	@$(BIN)/negspace demo

test: .venv/.installed-dev ## the whole suite, on real servers it starts itself
	@$(BIN)/python -m pytest -n auto --dist worksteal

test-all-versions: .venv/.installed-dev ## the suite on PostgreSQL 14 to 18
	@$(BIN)/python tests/all_versions.py -n auto

schema: .venv/.installed ## write sql/schema.sql anew from the migrations
	@folder=$$(mktemp -d) && chmod 711 $$folder && export NEGSPACE_HOME=$$folder/home && \
	$(BIN)/negspace migrate up && \
	{ $(BIN)/negspace migrate dump && cat src/negspace/sql/after_schema.sql; } > $$folder/schema.sql && \
	cp $$folder/schema.sql src/negspace/sql/schema.sql; status=$$?; \
	$(BIN)/negspace server stop --json > /dev/null; rm -rf $$folder; exit $$status

reference: .venv/.installed-dev ## write docs/reference.md and its diagram anew from the catalog
	@folder=$$(mktemp -d) && chmod 711 $$folder && export NEGSPACE_HOME=$$folder/home && \
	$(BIN)/negspace migrate up > /dev/null && \
	$(BIN)/python tests/schema_reference.py "$$($(BIN)/negspace server url --role owner)"; status=$$?; \
	$(BIN)/negspace server stop --json > /dev/null; rm -rf $$folder; exit $$status

docs: .venv/.installed-dev ## the documents as a site, in site/; every link is checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

chaos: .venv/.installed-dev ## a thousand kills over running workers; minutes
	@$(BIN)/python benchmarks/chaos.py

check: lint types layers test ## what CI runs

format: .venv/.installed-dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: .venv/.installed-dev ## format and lint, changing nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: .venv/.installed-dev ## strict types
	@$(BIN)/basedpyright

layers: .venv/.installed-dev ## imports run one way
	@$(BIN)/lint-imports

clean: ## remove what make made here; no data
	rm -rf .venv .pytest_cache .ruff_cache build dist
