"""Skips steps whose result can be predicted: the network's noise direction is extrapolated from the last two.

What is extrapolated is what the network gives for each conditioning, before guidance: all that samplers, guiders and
other nodes do with it (cfg functions, hooks after cfg) happens at every step. Every step that is computed measures how
far the extrapolation was off, and that decides how many steps may follow without the network. Reusing the last
direction instead, as EasyCache does, loses more. The first steps decide what the video shows, so they are always
computed.
"""

import logging
import math
from dataclasses import dataclass, field

from comfy.patcher_extension import WrappersMP
from torch import Tensor, zeros_like

KEY = "easyanimate_step_cache"
FARTHEST = 20  # times the distance of the last two calls: the error that was measured says nothing beyond
UNSTABLE = ("cfg_pp", "adaptive", "pece", "exp_heun")  # in names of samplers that amplify a small error of one step
MULTISTEP = ("unipc", "res_multistep")  # that divide differences of several steps: half the threshold for them


@dataclass
class Trace:
    """What one kind of call (a context window, a guider's extra pass) gave: (log sigma, directions) of the last two."""

    last: list[tuple[float, list[Tensor]]] = field(default_factory=list)
    error: float = math.inf  # of one step, relative
    in_a_row: int = 0

    def along(self, position: float) -> float:
        """How far a log sigma lies beyond the last two, in their distance."""
        (first, _), (second, _) = self.last
        return (position - second) / (second - first)

    def extrapolated(self, position: float) -> list[Tensor]:
        """The directions at a log sigma, on the line through the last two."""
        (_, before), (_, after) = self.last
        along = self.along(position)
        return [b + (b - a) * along for a, b in zip(before, after, strict=True)]

    def update(self, position: float, directions: list[Tensor]) -> None:
        """Take in computed directions."""
        if len(self.last) == 2:
            pairs = zip(self.extrapolated(position), directions, strict=True)
            self.error = max(_relative_error(guess, found) for guess, found in pairs) / (self.in_a_row + 1)
        self.last = [entry for entry in self.last[-1:] if entry[0] != position] + [(position, directions)]
        self.in_a_row = 0

    def clear(self) -> None:
        """Forget what was: another sampler step than these began."""
        self.last, self.error, self.in_a_row = [], math.inf, 0


@dataclass
class Run:
    """The error allowed for a skipped step of a run, its traces, and how many calls of the network it skipped."""

    threshold: float
    traces: dict[tuple, Trace] = field(default_factory=dict)
    x: Tensor | None = None  # of the last call
    ordinal: int = 0  # of a call among those with the same x
    calls: int = 0
    skipped: int = 0

    def trace(self, x: Tensor, conds: int, window) -> Trace:
        """The trace of a call on `x`; a guider that calls again on the same has one of its own."""
        self.ordinal = self.ordinal + 1 if x is self.x else 0
        self.x = x
        frames = tuple(window.index_list) if window is not None else ()
        return self.traces.setdefault((frames, self.ordinal if window is None else 0, conds, tuple(x.shape)), Trace())


class StepCache:
    """Two wrappers around the host's sampling; their state lives as long as the run.

    A step is skipped while the error expected of it is below `threshold`, at most `most` of them in a row, and none of
    those whose sigma is above `start`.
    """

    def __init__(self, threshold: float, most: int, start: float = math.inf):
        self.threshold, self.most, self.start = threshold, most, start
        self.run: Run | None = None

    def sample(self, executor, noise: Tensor, latent_image: Tensor, sampler, *args, **kwargs):
        """Around a whole run."""
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
        if any(kind in name for kind in UNSTABLE):
            logging.warning("EasyAnimate Step Cache: %s needs every step, so none is skipped.", name)
            return executor(noise, latent_image, sampler, *args, **kwargs)
        strict = any(kind in name for kind in MULTISTEP)
        self.run = run = Run(self.threshold / 2 if strict else self.threshold)
        try:
            return executor(noise, latent_image, sampler, *args, **kwargs)
        finally:
            self.run = None
            logging.info("EasyAnimate Step Cache: %d of %d steps skipped.", run.skipped, run.calls)

    def predict(self, executor, model, conds: list, x: Tensor, timestep: Tensor, model_options: dict):
        """Around the network at one step: denoised latents for each conditioning, computed or extrapolated."""
        run, level = self.run, float(timestep.max())
        if run is None or level <= 0:  # outside of a run nothing is known
            return executor(model, conds, x, timestep, model_options)
        window = model_options.get("transformer_options", {}).get("context_window")
        trace, position = run.trace(x, len(conds), window), math.log(level)
        run.calls += 1
        if level <= self.start and self._may_skip(run, trace, position):
            trace.in_a_row += 1
            run.skipped += 1
            found = iter(trace.extrapolated(position))
            return [zeros_like(x) if cond is None else x - level * next(found) for cond in conds]
        denoised = executor(model, conds, x, timestep, model_options)
        given = [each for each, cond in zip(denoised, conds, strict=True) if cond is not None]
        trace.update(position, [(x - each) / level for each in given])
        return denoised

    def _may_skip(self, run: Run, trace: Trace, position: float) -> bool:
        if len(trace.last) < 2 or trace.in_a_row >= self.most:
            return False
        if abs(trace.along(position)) > FARTHEST:
            return False
        return trace.error * (trace.in_a_row + 1) < run.threshold


def with_step_cache(model, threshold: float, start_percent: float, most: int):
    """A copy of the host's MODEL that skips steps, none before `start_percent` (0..1) of the noise schedule."""
    start = float(model.get_model_object("model_sampling").percent_to_sigma(start_percent))
    copy, cache = model.clone(), StepCache(threshold, most, start)
    copy.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, cache.sample)
    copy.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, cache.predict)
    return copy


def _relative_error(guess: Tensor, found: Tensor) -> float:
    """The largest of a batch."""
    missed = (guess - found).flatten(1).norm(dim=1) / found.flatten(1).norm(dim=1).clamp_min(1e-12)
    return float(missed.max())
