"""Ctrl-C in training: the step at hand is finished, in every process, so that nothing that was learnt is lost."""

import logging
import signal
import threading
from typing import Any

import torch


class Interrupts:
    """Within this context Ctrl-C is held back until `raise_pending`; a second one takes effect at once."""

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.pending = False
        self.previous: Any = None

    def __enter__(self) -> "Interrupts":
        is_main_thread = threading.current_thread() is threading.main_thread()
        if is_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.previous = signal.signal(signal.SIGINT, self._hold)
        return self

    def __exit__(self, *_) -> None:
        self._let_go()

    def raise_pending(self) -> None:
        """Raise `KeyboardInterrupt` if any process was interrupted; every process has to call this."""
        pending = self.pending
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(pending), device=self.accelerator.device)
            pending = bool(self.accelerator.reduce(flag, "sum"))
        if pending:
            raise KeyboardInterrupt

    def _hold(self, *_) -> None:
        self.pending = True
        self._let_go()
        logging.info("Stopping after this step; press Ctrl-C again to stop at once.")

    def _let_go(self) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None
