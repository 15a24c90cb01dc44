"""Leave out sampling steps whose outcome can be foretold: the noise direction of the last two goes on in a line.

Every step that is computed shows how wrong the line was, and that decides how many steps may follow without the
network. Reusing the last direction instead, as EasyCache does, loses more: two steps say where it is going. The first
steps decide what is to be seen, so they are computed: a small error there grows into another picture.
"""

import logging
import math
from dataclasses import dataclass, field

from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "easyanimate_step_cache"


@dataclass
class Run:
    """What one run knows: (log sigma, direction) of the last two steps computed, and how wrong the line was."""

    last: list[tuple[float, Tensor]] = field(default_factory=list)
    error: float = math.inf  # of one step, relative
    in_a_row: int = 0
    steps: int = 0
    skipped: int = 0

    def foretold(self, position: float) -> Tensor:
        """The direction at a log sigma, on the line through the last two."""
        (first, before), (second, after) = self.last
        return after + (after - before) * ((position - second) / (second - first))

    def learn(self, position: float, direction: Tensor) -> None:
        """Take in a computed direction."""
        if len(self.last) == 2:
            missed = (self.foretold(position) - direction).norm() / direction.norm().clamp_min(1e-12)
            self.error = float(missed) / (self.in_a_row + 1)
        self.last = [entry for entry in self.last[-1:] if entry[0] != position] + [(position, direction)]
        self.in_a_row = 0


class StepCache:
    """Two wrappers around the host's sampling; what they know lives as long as the run.

    A step is left out while the error expected of it is below `threshold`, at most `most` of them in a row, and none
    of those whose sigma is above `start`.
    """

    def __init__(self, threshold: float, most: int, start: float = math.inf):
        self.threshold, self.most, self.start = threshold, most, start
        self.run: Run | None = None

    def sample(self, executor, *args, **kwargs):
        """Around a whole run."""
        self.run = run = Run()
        try:
            return executor(*args, **kwargs)
        finally:
            self.run = None
            logging.info("EasyAnimate Step Cache: %d of %d steps skipped.", run.skipped, run.steps)

    def predict(self, executor, x: Tensor, sigma: Tensor, *args, **kwargs) -> Tensor:
        """Around one step: the denoised latents, computed or foretold."""
        run, level = self.run, float(sigma.max())
        if run is None:  # outside of a run nothing is known
            return executor(x, sigma, *args, **kwargs)
        run.steps += 1
        position = math.log(level)
        if level <= self.start and self._may_leave_out(run):
            run.in_a_row += 1
            run.skipped += 1
            return x - level * run.foretold(position)
        denoised = executor(x, sigma, *args, **kwargs)
        run.learn(position, (x - denoised) / level)
        return denoised

    def _may_leave_out(self, run: Run) -> bool:
        expected = run.error * (run.in_a_row + 1)
        return expected < self.threshold and run.in_a_row < self.most and len(run.last) == 2


def with_step_cache(model, threshold: float, start_percent: float, most: int):
    """A copy of the host's MODEL that leaves steps out, none before `start_percent` (0..1) of the noise schedule."""
    start = float(model.get_model_object("model_sampling").percent_to_sigma(start_percent))
    copy, cache = model.clone(), StepCache(threshold, most, start)
    copy.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, cache.sample)
    copy.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, cache.predict)
    return copy
