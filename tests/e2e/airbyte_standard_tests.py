"""Airbyte's standard tests for sources, in PyAirbyte's environment, on the installed command instead of an image.

`test_pyairbyte.py` puts this file beside a copy of `airbyte/` and runs it there; SOURCE names the command.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from airbyte_cdk.test import entrypoint_wrapper
from airbyte_cdk.test.standard_tests.source_base import SourceTestSuiteBase
from airbyte_connector_models.metadata.v0.connector_metadata_definition_v0 import ConnectorMetadataDefinitionV0


def run_command(source: Any, args: list[str], **_: Any) -> entrypoint_wrapper.EntrypointOutput:  # noqa: ANN401, ARG001
    """Run the source as a process: the standard tests would call a class of Airbyte's own kit."""
    args = args[:1] if args[0] == "spec" else args  # which takes none, but is given a catalog here
    done = subprocess.run([os.environ["SOURCE"], *args], capture_output=True, text=True, check=False)  # noqa: S603
    return entrypoint_wrapper.EntrypointOutput(messages=done.stdout.splitlines(), command=args, stderr=done.stderr)


entrypoint_wrapper._run_command = run_command


class TestSource(SourceTestSuiteBase):  # type: ignore[misc]
    """Every standard test of sources that needs no container."""

    @classmethod
    def create_connector(cls, scenario: Any) -> Any:  # noqa: ANN401, ARG003
        """Return a stand-in: :func:`run_command` looks at the arguments only."""
        return object


def test_metadata_is_as_airbytes_registry_has_it() -> None:
    metadata = yaml.safe_load((Path(__file__).parent / "metadata.yaml").read_text(encoding="utf-8"))
    ConnectorMetadataDefinitionV0.model_validate(metadata)
