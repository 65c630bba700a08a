"""Signals that ask a run to stop: it finishes its step, saves, and its exit code says why."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from .. import dist
from .finite import later

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start me again later
INTERRUPTED = 130  # a shell's code after Ctrl-C: whoever pressed it wants no new start
ECHO = 1.0  # seconds; schedulers signal all processes of a job, and launchers pass on what they get


class Stopped(SystemExit):
    """A signal ended the run, which is saved; ``code`` is 75, or 130 after Ctrl-C."""

    def __init__(self, signum: int) -> None:
        super().__init__(INTERRUPTED if signum == signal.SIGINT else REQUEUE)


class Abandoned(BaseException):
    """A signal came while something was computed that can be left out."""


class Preemption:
    """Hears signals from ``listen`` to ``close``; a second one ends the process at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.signum, self._since, self._abandonable = 0, 0.0, False
        self._before: Callable[[], Any] | None = None
        self._replaced: dict[int, Any] = {}

    def listen(self) -> None:
        """Replaces the handlers of ``SIGNALS``, in the main thread, where alone that is allowed."""
        if threading.current_thread() is threading.main_thread():
            self._replaced = {signum: signal.signal(signum, self._hear) for signum in SIGNALS}

    def close(self) -> None:
        """Puts the handlers back."""
        for signum, handler in self._replaced.items():
            signal.signal(signum, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._since = signum, time.monotonic()
            if self._abandonable:
                raise Abandoned
        elif time.monotonic() - self._since > ECHO:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def abandonable(self, work: Callable[[], Any]) -> Any:
        """Returns what ``work`` does, or None after a signal: it may last longer than there is."""
        self._abandonable = True
        try:
            return None if self.signum else work()
        except Abandoned:
            return None
        finally:
            self._abandonable = False

    def agreed(self, wait: bool = True) -> int:
        """Returns the signal that any rank has heard, or 0; the same on all ranks, which all ask.

        Args:
            wait: for the answer; else several GPUs return that of the call before.
        """
        if dist.world_size() == 1:
            return self.signum
        flag = torch.full((), self.signum, device=self.device)
        dist.largest(flag)
        if wait or not flag.is_cuda:
            return int(flag)
        before, self._before = self._before, later(flag)
        return before() if before else 0
