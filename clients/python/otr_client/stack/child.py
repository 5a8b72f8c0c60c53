"""Runs a service module as a child that does not outlive whoever started it.

`python -m otr_client.stack.child MODULE ARGUMENT...` with a pipe or socket as standard input that
the parent keeps open: its end means that the parent is gone, however it died, and the service gets
SIGTERM as if the parent had stopped it. The kernel closes the pipe; nobody has to clean up.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Watch standard input and become the module."""
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
