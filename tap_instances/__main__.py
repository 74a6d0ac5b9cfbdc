"""The ``tap-instances`` command, and ``python -m tap_instances``."""

from __future__ import annotations

import gc
import signal


def main() -> None:
    """Run the tap's command line."""
    # Ctrl-C during the imports ends the process without a traceback. The tap sets a handler of its own later.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what is imported stays: the garbage collector need not look at it, now or later
    from tap_instances.tap import TapInstances  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    TapInstances.cli()


if __name__ == "__main__":
    main()
