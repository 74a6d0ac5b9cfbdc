"""The ``tap-instances`` command, and ``python -m tap_instances``."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
from pathlib import Path


def check_log_variables() -> None:
    """Unset empty variables of the log; end with one line if a log level does not exist: the SDK's is a traceback."""
    for name in ("TAP_INSTANCES_LOGLEVEL", "LOGLEVEL", "SINGER_SDK_LOG_CONFIG"):
        text = os.environ.get(name, "")
        if not text.strip():
            os.environ.pop(name, None)  # as if it were unset
        elif name.endswith("LOGLEVEL") and not isinstance(logging.getLevelName(text.upper()), int):
            sys.exit(f"{name} must be DEBUG, INFO, WARNING, ERROR or CRITICAL: correct it, or unset it")


def main() -> None:
    """Run the tap's command line."""
    # Ctrl-C during the imports ends the process without a traceback. The tap sets a handler of its own later.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what is imported stays in use: looking for garbage in it takes a third of the start-up
    from tap_instances.tap import TapInstances  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    check_log_variables()
    try:
        if config := os.environ.get("SINGER_SDK_LOG_CONFIG"):
            Path(config).read_bytes()  # of a missing file the SDK only warns
        command = TapInstances.cli  # it sets up logging
    except Exception:  # noqa: BLE001 (whatever a file may hold)
        sys.exit("SINGER_SDK_LOG_CONFIG must name a YAML file with a logging configuration: correct it, or unset it")
    try:
        command()
    except SystemExit as end:
        atexit._run_exitfuncs()  # noqa: SLF001
        os._exit(int(end.code or 0))  # Python would first free one by one what is remembered: 2 % of a run


if __name__ == "__main__":
    main()
