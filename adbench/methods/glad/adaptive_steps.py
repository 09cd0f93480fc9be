"""Adaptive denoising steps (ADS, section 3.3): where each image leaves the common walk.

All images walk down from the same level. At each step the clean estimate of the walk is compared
with that of the test image noised to the same level; the first step at which they differ by more
than delta is the image's own. What an image does until then does not depend on the decision, so
that the search for it may look at the steps in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from adbench.diffusion.latent.ddim import Ddim
from adbench.methods.glad.fusion import fused, fusion_mask
from adbench.methods.glad.maps import top_mean
from adbench.methods.glad.settings import SaffKeys

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents [B, C, h, w], levels [B], rows [B] of the batch) -> noise estimates."""


class Difference(NamedTuple):
    """Of two clean estimates: S [B] and A [B, 1, h, w], a value for each cell of the latent."""

    score: Tensor
    map: Tensor


class Sequences(NamedTuple):
    """Along a walk, [B, steps] each: S, and the pooled difference of the latents themselves."""

    score: Tensor
    latent: Tensor


Compare = Callable[[Tensor, Tensor], Difference]
"""(of the test image, of the walk), both [B, C, h, w]."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a walk decides by.

    Attributes:
        delta: S beyond which an image is decided.
        stop: t_min: at the first level below it an undecided image goes on from itself.
        search: ``sequential`` | ``last_first`` | ``bisect``.
        restart: steps that the new start lies above the chosen one.
        saff: how both estimates are joined.
        second_pass: a network pass of its own for the noised test image.
        gate: pooled latent difference up to which nothing is decoded; 0 compares always.
        end: level at or below which the clean estimate itself is the result; 0: walk to the end.
    """

    delta: float
    stop: int
    search: str = "sequential"
    restart: int = 0
    saff: SaffKeys = field(default_factory=SaffKeys)
    second_pass: bool = False
    gate: float = 0.0
    end: int = 0


@dataclass(slots=True)
class Walk:
    """The common walk, step by step, kept so that a decision can go back to it.

    Attributes:
        sample, noise: [steps][B, C, h, w]: latent and noise estimate at each step.
    """

    sample: list[Tensor]
    noise: list[Tensor]


@dataclass(slots=True)
class Decision:
    """Where each image left the walk.

    Attributes:
        index: [B] position of the step; -1 before a decision.
        crossed: [B] bool; False for an image that never differed.
        score: [B] S at that step.
        clean: [B, C, h, w] the estimate it goes on from.
        noise: [B, C, h, w] the noise it goes on with.
        mask: [B, 1, h, w] share of the walk in it; 0 where nothing was fused.
    """

    index: Tensor
    crossed: Tensor
    score: Tensor
    clean: Tensor
    noise: Tensor
    mask: Tensor

    @classmethod
    def open(cls, latent: Tensor) -> Decision:
        """Return undecided images like ``latent``."""
        count = len(latent)
        return cls(
            index=torch.full((count,), -1),
            crossed=torch.zeros(count, dtype=torch.bool),
            score=latent.new_zeros(count),
            clean=latent.clone(),
            noise=torch.zeros_like(latent),
            mask=torch.zeros_like(latent[:, :1]),
        )


@dataclass(slots=True)
class Cost:
    """Images that passed through the network, and comparisons (two decodings each)."""

    passes: int = 0
    comparisons: int = 0


class AdaptiveSteps:
    """Reconstruction with a step of its own for every image.

    Args:
        ddim: levels of the walk.
        predict: estimates noise.
        compare: estimates S and A of two clean estimates.
        rules: what is decided by.
    """

    def __init__(self, ddim: Ddim, predict: Predict, compare: Compare, rules: Rules) -> None:
        self.ddim, self.rules = ddim, rules
        self._predict, self._compare = predict, compare
        self.times = ddim.times
        self.last = ddim.first_below(rules.stop)
        self.cost = Cost()

    def __call__(
        self, latent: Tensor, noise: Tensor, begin: Tensor | None = None
    ) -> tuple[Tensor, Decision]:
        """Return final latents [B, C, h, w] and decisions.

        Args:
            latent: of the test images.
            noise: one draw for each image, used at every level.
            begin: where the walk starts; None: the test image at the first level.
        """
        self._latent, self._noise, self._begin = latent, noise, begin
        # From the first level's own noise both estimates are one tensor: S = 0.
        self.first = 1 if begin is None else 0
        in_order = self.rules.search == "sequential"
        decision = self._sequential() if in_order else self._searched()
        return self._finished(decision), decision

    # The walk

    def predicted(self, latent: Tensor, time: int | Tensor, rows: Tensor) -> Tensor:
        """Return noise estimates of ``latent`` [n, ...], images ``rows`` [n] of the batch."""
        self.cost.passes += len(latent)
        level = torch.as_tensor(time).expand(len(latent))
        return self._predict(latent, level, rows)

    def _start(self) -> Tensor:
        if self._begin is not None:
            return self._begin
        return self.ddim.noised(self._latent, self.times[0], self._noise)

    def walked(self) -> Walk:
        """Return the whole common walk down to the last step that may decide."""
        walk = Walk([], [])
        sample, rows = self._start(), torch.arange(len(self._latent))
        for number, time in enumerate(self.times[: self.last + 1]):
            estimate = self.predicted(sample, time, rows)
            walk.sample.append(sample)
            walk.noise.append(estimate)
            if number < self.last:
                sample = self.ddim.after(self.ddim.clean(sample, time, estimate), time, estimate)
        return walk

    def estimates(
        self, sample: Tensor, noise: Tensor, time: int | Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return u and u-hat at one level: clean estimates of test image and walk (Eq. 2)."""
        walk = self.ddim.clean(sample, time, noise)
        noised = self.ddim.noised(self._latent[rows], time, self._noise[rows])
        own = self.predicted(noised, time, rows) if self.rules.second_pass else noise
        return self.ddim.clean(noised, time, own), walk

    def compared(self, test: Tensor, walk: Tensor) -> Difference:
        """Return S and A; 0 where the latents differ by no more than the gate."""
        near = latent_difference(test, walk) <= self.rules.gate
        if self.rules.gate == 0 or not near.any():
            self.cost.comparisons += len(test)
            return self._compare(test, walk)
        score, map_ = test.new_zeros(len(test)), torch.zeros_like(test[:, :1])
        far = (~near).nonzero().squeeze(1)
        if len(far):
            self.cost.comparisons += len(far)
            found = self._compare(test[far], walk[far])
            score[far], map_[far] = found.score, found.map
        return Difference(score, map_)

    # The decision

    def _sequential(self) -> Decision:
        decision = Decision.open(self._latent)
        rows, sample = torch.arange(len(self._latent)), self._start()
        for number, time in enumerate(self.times[: self.last + 1]):
            estimate = self.predicted(sample, time, rows)
            if number >= self.first or number == self.last:
                decided = self._judge(decision, number, sample, estimate, rows)
                rows, sample, estimate = rows[~decided], sample[~decided], estimate[~decided]
            if not len(rows):
                break
            sample = self.ddim.after(self.ddim.clean(sample, time, estimate), time, estimate)
        return decision

    def _judge(
        self, decision: Decision, number: int, sample: Tensor, estimate: Tensor, rows: Tensor
    ) -> Tensor:
        """Decide images ``rows`` at one step; return which of them are decided, [n] bool."""
        test, walk = self.estimates(sample, estimate, self.times[number], rows)
        found = self.compared(test, walk)
        crossed = found.score.cpu() > self.rules.delta
        decided = crossed | (number == self.last)
        some = decided.nonzero().squeeze(1)
        if len(some):
            self._take(
                decision, number, rows[some], crossed[some], found, some, test, walk, estimate
            )
        return decided

    def _take(
        self,
        decision: Decision,
        number: int,
        rows: Tensor,
        crossed: Tensor,
        found: Difference,
        some: Tensor,
        test: Tensor,
        walk: Tensor,
        estimate: Tensor,
    ) -> None:
        mask = fusion_mask(found.map[some], self.rules.delta, self.rules.saff)
        mask = mask * crossed.to(mask).view(-1, 1, 1, 1)
        original = self.rules.saff.noise == "original"
        decision.index[rows], decision.crossed[rows] = number, crossed
        decision.score[rows], decision.mask[rows] = found.score[some], mask
        decision.clean[rows] = fused(walk[some], test[some], mask)
        decision.noise[rows] = self._noise[rows] if original else estimate[some]

    def _searched(self) -> Decision:
        """Look at the last step first: who does not differ there is taken never to have."""
        walk, decision = self.walked(), Decision.open(self._latent)
        rows = torch.arange(len(self._latent))
        last = self._difference(walk, torch.full_like(rows, self.last), rows)
        crossing = last.score.cpu() > self.rules.delta
        self._settle(decision, walk, rows[~crossing], self.last, crossed=False)
        decision.score[rows[~crossing]] = last.score[rows[~crossing]]
        if crossing.any():
            find = self._bisected if self.rules.search == "bisect" else self._scanned
            index = find(walk, rows[crossing])
            for number in index.unique().tolist():
                at = rows[crossing][index == number]
                self._settle(decision, walk, at, number, crossed=True)
        return decision

    def _difference(self, walk: Walk, index: Tensor, rows: Tensor) -> Difference:
        """Return S and A of images ``rows`` [n], each at its own step ``index`` [n]."""
        sample = torch.stack([walk.sample[i][r] for i, r in zip(index, rows, strict=True)])
        noise = torch.stack([walk.noise[i][r] for i, r in zip(index, rows, strict=True)])
        time = torch.tensor(self.times)[index]
        return self.compared(*self.estimates(sample, noise, time, rows))

    def _scanned(self, walk: Walk, rows: Tensor) -> Tensor:
        """Return the first step [n] at which each of ``rows`` differs; the last one does."""
        index = torch.full_like(rows, self.last)
        open_ = torch.ones(len(rows), dtype=torch.bool)
        for number in range(self.first, self.last):
            some = open_.nonzero().squeeze(1)
            if not len(some):
                break
            found = self._difference(walk, torch.full_like(some, number), rows[some])
            crossed = some[found.score.cpu() > self.rules.delta]
            index[crossed] = number
            open_[crossed] = False
        return index

    def _bisected(self, walk: Walk, rows: Tensor) -> Tensor:
        """Return a step [n] at which each of ``rows`` begins to differ.

        Exact where S grows along the walk; else some crossing, not always the first.
        """
        low = torch.full_like(rows, self.first - 1)
        high = torch.full_like(rows, self.last)
        while bool((high - low > 1).any()):
            some = (high - low > 1).nonzero().squeeze(1)
            middle = (low[some] + high[some]) // 2
            crossed = self._difference(walk, middle, rows[some]).score.cpu() > self.rules.delta
            high[some] = torch.where(crossed, middle, high[some])
            low[some] = torch.where(crossed, low[some], middle)
        return high

    def _settle(
        self, decision: Decision, walk: Walk, rows: Tensor, number: int, *, crossed: bool
    ) -> None:
        if not len(rows):
            return
        sample, estimate = walk.sample[number][rows], walk.noise[number][rows]
        test, own = self.estimates(sample, estimate, self.times[number], rows)
        some = torch.arange(len(rows))
        # The map is needed to fuse; nothing is fused where the image goes on from itself.
        found = self.compared(test, own) if crossed else _nothing(test)
        flags = torch.full((len(rows),), crossed)
        self._take(decision, number, rows, flags, found, some, test, own, estimate)

    # The rest of the way

    def _finished(self, decision: Decision) -> Tensor:
        """Denoise every image from its own step to the end, all of them in one batch."""
        times = torch.tensor(self.times)
        above = torch.where(decision.crossed, self.rules.restart, 0)
        index = decision.index.clone()
        sample = self.ddim.after(decision.clean, times[index], decision.noise)
        following = index + 1
        back = (above > 0).nonzero().squeeze(1)
        if len(back):  # n steps up: the estimate noised to a higher level, which is passed again
            following[back] = (index[back] - above[back]).clamp_min(0)
            sample[back] = self.ddim.noised(
                decision.clean[back], times[following[back]], decision.noise[back]
            )
        ended = (times[index] <= self.rules.end) & (above == 0)
        sample[ended], following[ended] = decision.clean[ended], len(times)
        while len(rows := (following < len(times)).nonzero().squeeze(1)):
            time = times[following[rows]]
            estimate = self.predicted(sample[rows], time, rows)
            clean = self.ddim.clean(sample[rows], time, estimate)
            last = (time <= self.rules.end).to(clean.device).view(-1, 1, 1, 1)
            sample[rows] = torch.where(last, clean, self.ddim.after(clean, time, estimate))
            following[rows] = torch.where(time <= self.rules.end, len(times), following[rows] + 1)
        return sample

    def differences(self, latent: Tensor, noise: Tensor) -> Sequences:
        """Compare along the whole walk, without gate or decisions, for the calibration."""
        self._latent, self._noise, self._begin, self.first = latent, noise, None, 1
        walk, rows = self.walked(), torch.arange(len(latent))
        scores, near = [latent.new_zeros(len(latent))], [latent.new_zeros(len(latent))]
        for number in range(1, self.last + 1):
            pair = self.estimates(walk.sample[number], walk.noise[number], self.times[number], rows)
            scores.append(self._compare(*pair).score)
            near.append(latent_difference(*pair))
        return Sequences(torch.stack(scores, 1), torch.stack(near, 1))


def _nothing(like: Tensor) -> Difference:
    return Difference(like.new_zeros(len(like)), torch.zeros_like(like[:, :1]))


def latent_difference(test: Tensor, walk: Tensor, top: int = 10) -> Tensor:
    """Return [B]: the mean of the ``top`` largest cells of the channels' mean |u - u-hat|."""
    return top_mean((test - walk).abs().mean(1), top)


def fixed_steps(
    ddim: Ddim,
    predict: Predict,
    latent: Tensor,
    noise: Tensor,
    begin: Tensor | None = None,
    end: int = 0,
) -> Tensor:
    """Return final latents of one walk from the first level to the end, the same for all.

    With ``end`` the clean estimate of the first level at or below it.
    """
    rows = torch.arange(len(latent))
    sample = ddim.noised(latent, ddim.times[0], noise) if begin is None else begin
    for time in ddim.times:
        estimate = predict(sample, torch.full((len(latent),), time), rows)
        clean = ddim.clean(sample, time, estimate)
        if time <= end:
            return clean
        sample = ddim.after(clean, time, estimate)
    return sample
