"""The sets that watch a training run by default: product and benchmark run the same code."""

from __future__ import annotations

from math import inf

from premortem.core.detector import Detector
from premortem.parts.detectors.low_variance import LowVariance
from premortem.parts.detectors.non_finite import NonFinite
from premortem.parts.detectors.plateau import Plateau
from premortem.parts.detectors.ratio_to_best import RatioToBest
from premortem.parts.detectors.rising import Rising
from premortem.parts.detectors.shift import Shift
from premortem.parts.detectors.spike import Spike


def training_loss_detectors() -> dict[str, Detector]:
    """Fresh detectors for a per-step training loss, by name.

    A spike of one step is YELLOW: hard batches do that and heal alone. ``rising``, ``low_variance`` and ``plateau``
    carry AF-1.4's and HRM-9.1.1's own thresholds. An explosion is 10 × the window's best, but of no best under
    0.05 nats: tenfold of nothing is nothing.
    """
    return {
        "non_finite": NonFinite(),
        "explosion": RatioToBest(factor=10.0, window=100, floor=0.05),
        "spike": Spike(yellow=12.0, red=inf),
        "shift": Shift(),
        "rising": Rising(window=100, slope=0.01),
        "low_variance": LowVariance(window=50, below=1e-3),
        "plateau": Plateau(window=100, improvement=0.01),
    }


def gradient_norm_detectors(*, width: float = 1.0) -> dict[str, Detector]:
    """Fresh detectors for the gradient norm before clipping, which leads the loss in real incidents.

    ``width``: the least width of the shift, in log units. A healthy norm doubles and trebles while a model
    memorises, so a rise is judged against a factor of e and not against its own noise; a single spike is YELLOW.
    """
    return {
        "non_finite": NonFinite(),
        "spike": Spike(yellow=8.0, red=inf, floor=0.05),
        "shift": Shift(floor=width, slow_drift=1.0),
    }
