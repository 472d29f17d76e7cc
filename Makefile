# Everything a fresh machine needs is Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test dev check calibrate bench bench-large spark lock clean help

help:
	@echo "make demo    install, run the main job on real data, print the verdicts"
	@echo "make test    install, run all tests"
	@echo "make dev     install, open the Dagster UI on http://127.0.0.1:3000"
	@echo "make check   format, lint, types, doctests, lock files"
	@echo "make bench   speed against the bare scan and against peers, with targets"
	@echo "make calibrate   10,000 A/A permutations per estimator on real data"

$(INSTALLED): pyproject.toml requirements-all.lock requirements-uv.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements-all.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q experiments_dagster
	touch $@

demo: $(INSTALLED)
	$(BIN)/experiments demo

test: $(INSTALLED)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not alone"

dev: $(INSTALLED)
	$(BIN)/experiments dev

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m alone tests/assets tests/stats tests/causal tests/calibration
	$(BIN)/python -m pytest -q --doctest-modules --pyargs experiments_dagster -p no:cacheprovider

# Sizes of every estimator on real data without an effect, in a table at the end.
calibrate: $(INSTALLED)
	CALIBRATION_REPLICATES=10000 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q tests/calibration

# Speed against the bare scan and against peers, with the targets; the tables go into the README.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks --readme README.md

# 100 million events and the causal peers: needs some 5 GB of disk.
bench-large: $(INSTALLED)
	$(BIN)/python -m benchmarks --large

# Spark has an environment of its own: with it installed, pandera loads more than a look needs.
SPARK := .venv-spark/.installed

$(SPARK): $(INSTALLED) requirements-spark.lock
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-spark
	$(BIN)/uv pip sync --quiet --python .venv-spark/bin/python --require-hashes requirements-spark.lock
	$(BIN)/uv pip install --quiet --python .venv-spark/bin/python --no-deps --no-build-isolation -e .
	touch $@

# The same definitions on a local Spark; needs Java 17.
spark: $(SPARK)
	OPENBLAS_NUM_THREADS=1 .venv-spark/bin/python -m pytest -q -m spark tests/spark

lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra demo --extra dev --extra postgres --extra uplift pyproject.toml -o requirements-all.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra demo --extra dev --extra spark pyproject.toml -o requirements-spark.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra postgres pyproject.toml -o deploy/requirements.lock
	grep -A 40 '^uv==' requirements-all.lock | sed -n '1p;2,40{/^    --hash/p;/^[a-z]/q}' > requirements-uv.lock

clean:
	rm -rf .demo .venv
