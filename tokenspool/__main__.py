"""The way in: the `tokenspool` command and `python -m tokenspool` begin here."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # `python -m` puts the folder somebody stands in first: a folder called `worker` or `cli` there
    # must never be taken for ours. `python -P` has not put it there.
    if not sys.flags.safe_path and sys.path and sys.path[0] in {"", _standing_in()}:
        del sys.path[0]
    try:
        from cli.main import main as command  # noqa: PLC0415 - only now is the path a safe one

        code = command(sys.argv[1:])
    except KeyboardInterrupt:
        # Before or after the command itself: nothing was under way.
        code = 3
    sys.exit(code)


def _standing_in() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not needed before the start
    except FileNotFoundError:  # somebody removed the folder under our feet
        return ""


if __name__ == "__main__":
    main()
