# Each target brings its own virtual environment; nothing but python3 (3.11 or newer), make and pip is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
URL ?=
WORKERS ?= 3

SOURCES := pyproject.toml setup.py $(shell find dataqueue mcp_server installers ai migrations docs -type f \
	-not -name '*.pyc' 2>/dev/null)

.PHONY: demo test check check-mcp check-installers check-plans check-projects bench docs eval-docs chaos clean

demo: $(VENV)/.installed
	@$(BIN)/dataqueue demo $(if $(URL),--url '$(URL)')

test: $(VENV)/.installed $(VENV)/.test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m 'not plans and not chaos and not projects' $(ARGS)

check: $(VENV)/.installed $(VENV)/.test $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_wheel.py

check-mcp: $(VENV)/.installed $(VENV)/.test
	$(BIN)/python tools/inspect_mcp.py $(ARGS)

check-installers: $(VENV)/.installed $(VENV)/.judges
	$(BIN)/python tools/judge_installers.py $(ARGS)

check-plans: $(VENV)/.installed $(VENV)/.test
	$(BIN)/pytest -m plans --timeout 1200 $(ARGS)

check-projects: $(VENV)/.installed $(VENV)/.test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m projects $(ARGS)

chaos: $(VENV)/.installed $(VENV)/.test
	$(BIN)/pytest -m chaos --timeout 3600 $(ARGS)

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks $(if $(URL),--url '$(URL)') $(ARGS)

docs: $(VENV)/.installed $(VENV)/.docs
	$(BIN)/python -m dataqueue docs llms > docs/llms.txt
	$(BIN)/python -m dataqueue docs llms --full > docs/llms-full.txt
	$(BIN)/zensical build --strict -f mkdocs.yml
	@cp docs/llms.txt docs/llms-full.txt build/site/
	@echo 'The site is in build/site/.'

eval-docs: $(VENV)/.installed
	$(BIN)/python tests/eval_docs.py

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

# A plain install, not an editable one: everything runs against what users get.
$(VENV)/.installed: $(VENV)/.created $(SOURCES)
	@echo 'Installing dataqueue into $(VENV) …'
	$(BIN)/pip install --quiet --disable-pip-version-check '.[embedded]'
	@rm -rf build *.egg-info
	@touch $@

$(VENV)/.test: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --group test
	@touch $@

$(VENV)/.docs: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --group docs
	@touch $@

$(VENV)/.judges: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --group judges
	@touch $@

$(VENV)/.check: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --group check
	@touch $@
