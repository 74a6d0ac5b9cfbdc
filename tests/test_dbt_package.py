"""The dbt package says what `schemas/` declares. Whether its models are right is tested in tests/e2e/test_dbt.py."""

from __future__ import annotations

import re

import pytest
import sqlglot
import yaml

from demo.codechat import FLAGS
from tools import dbt_docs
from tools.dbt_docs import PACKAGE, ROOT, columns, schemas

MODELS = PACKAGE / "models"
PAGE = ROOT / "docs" / "models.md"


def test_what_is_written_from_the_schemas_is_up_to_date() -> None:
    for path, text in dbt_docs.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"


def test_the_events_are_the_flags_of_the_api() -> None:
    declared = schemas()["webhook_events"]["properties"]
    assert [declared[event]["x-api"] for event in dbt_docs.events()] == list(FLAGS)


@pytest.mark.parametrize("table", schemas())
def test_a_staging_view_has_every_column_of_its_table_and_no_secret(table: str) -> None:
    text = (MODELS / "staging" / f"stg_codechat__{table}.sql").read_text(encoding="utf-8")
    plain = re.sub(r"\{\{.*?\}\}", "x", re.sub(r"\{[#%].*?[#%]\}", "", text, flags=re.DOTALL))
    query = sqlglot.parse_one(plain)
    assert isinstance(query, sqlglot.exp.Query)
    selected = query.named_selects
    assert selected == list(columns(schemas()[table]))


@pytest.mark.parametrize("table", schemas())
def test_a_staging_view_has_every_time_in_utc(table: str) -> None:
    text = (MODELS / "staging" / f"stg_codechat__{table}.sql").read_text(encoding="utf-8")
    times = {name for name, column in columns(schemas()[table]).items() if column.get("format") == "date-time"}
    assert set(re.findall(r"codechat\.utc\('(\w+)'\)", text)) == times


def test_every_model_is_described() -> None:
    described = {
        model["name"]
        for path in MODELS.rglob("codechat.yml")
        for model in yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
    }
    assert described == {path.stem for path in MODELS.rglob("*.sql")}


def test_the_page_names_every_variable_of_the_profile() -> None:
    read = re.findall(r"env_var\('(\w+)'", (PACKAGE / "profiles.yml").read_text(encoding="utf-8"))
    assert set(re.findall(r"\bDBT_[A-Z_]+\b", PAGE.read_text(encoding="utf-8"))) == set(read)
