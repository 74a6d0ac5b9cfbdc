"""``python -m tap_instances``."""

from __future__ import annotations

from tap_instances.tap import TapInstances

if __name__ == "__main__":
    TapInstances.cli()
