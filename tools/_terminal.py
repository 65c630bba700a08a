"""What scripts write to the terminal: text of files and strangers cannot control it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any, NoReturn

_format_warning = warnings.formatwarning


def plain(text: object) -> str:
    """Returns text whose control characters, which may move the cursor or worse, are escapes."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def fail(error: object) -> NoReturn:
    """Ends the script with an error on the terminal.

    One rank of several ends at once: to leave their group, it would wait for ranks that wait for
    it, and who started them would see none fail.
    """
    text = f"error: {plain(error)}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        print(text, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    sys.exit(text)


def log(level: int = logging.INFO, form: str = "%(message)s", times: str | None = None) -> None:
    """Sends the toolbox's messages, and Python's warnings, to the standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(form, times))
    logging.basicConfig(level=level, handlers=[handler])
    warnings.formatwarning = _plain_warning


def log_of_first_rank() -> None:
    """As ``log``; of other ranks than the first, which would repeat it, errors alone."""
    log()
    if int(os.environ.get("RANK", "0")) > 0:
        logging.getLogger("webssl_toolbox").setLevel(logging.ERROR)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def _plain_warning(*arguments: Any, **named: Any) -> str:
    return plain(_format_warning(*arguments, **named))
