"""hub/tap-instances.yml, for the Meltano Hub, says what meltano.yml says; test_docs holds that one to the tap."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.kit.pages import extractor, read

# What the Hub wants of a definition; `maintenance_status` and `quality` are words of its own lists.
REQUIRED = [
    "capabilities",
    "description",
    "domain_url",
    "executable",
    "keywords",
    "label",
    "logo_url",
    "maintenance_status",
    "name",
    "namespace",
    "pip_url",
    "quality",
    "repo",
    "settings",
    "settings_group_validation",
    "settings_preamble",
    "usage",
    "variant",
]
PASSWORDS = {"auth_token", "admin_token"}  # secret texts: the Hub's page hides them as they are typed


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    """Give the definition."""
    value: dict[str, Any] = yaml.safe_load(read("hub/tap-instances.yml"))
    return value


def test_the_definition_has_what_the_hub_wants(definition: dict[str, Any]) -> None:
    assert [field for field in REQUIRED if field not in definition] == []
    assert definition["maintenance_status"] in {"active", "beta", "development", "inactive", "unknown"}
    assert definition["quality"] in {"gold", "silver", "bronze", "unknown"}
    assert "meltano_sdk" in definition["keywords"]


def test_each_setting_is_as_in_meltano_yml(definition: dict[str, Any]) -> None:
    expected = [
        {**setting, "kind": "password"} if setting["name"] in PASSWORDS else setting
        for setting in extractor()["settings"]
    ]
    assert definition["settings"] == expected


@pytest.mark.parametrize("field", ["name", "namespace", "executable", "select", "settings_group_validation"])
def test_the_rest_is_as_in_meltano_yml(definition: dict[str, Any], field: str) -> None:
    assert definition[field] == extractor()[field]


def test_capabilities_are_as_in_meltano_yml(definition: dict[str, Any]) -> None:
    assert definition["capabilities"] == sorted(extractor()["capabilities"])
