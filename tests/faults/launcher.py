"""``genarm`` with a fault in its engine: ``python -m tests.faults.launcher POINT CALL serve …``; SIGUSR1 arms it."""

import signal
import sys

from server import cli
from tests.faults.fault import Fault


def main(point: str, call: str, *arguments: str) -> int:
    """The command's exit code."""
    fault = Fault(point, int(call))
    fault.install(setattr)
    signal.signal(signal.SIGUSR1, lambda *_: fault.arm())
    return cli.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
