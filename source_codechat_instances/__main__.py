"""The ``source-codechat-instances`` command, and ``python -m source_codechat_instances``."""

from __future__ import annotations

import logging
import signal
import sys

from tap_instances.__main__ import check_log_variables


def main() -> None:
    """Run Airbyte's command line."""
    # Until the tap sets its own: Ctrl-C while packages are imported ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.captureWarnings(capture=True)  # stderr stays quiet: warnings become LOG messages
    if sys.stdout is None:  # started with ">&-"
        sys.exit("stdout is closed: what the source writes goes there")
    check_log_variables()
    from source_codechat_instances.source import run  # noqa: PLC0415

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
