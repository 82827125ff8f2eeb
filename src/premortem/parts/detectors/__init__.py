"""The shelf of detectors: one small final class a file, standard library only, O(1) an observation.

Each has keyword-only plain-number parameters, kept in ``params`` (they are hashed with its state), ``observe``,
``state`` and ``load``. ``docs/detectors.md`` says which sees what, and the measured scores.
"""

from premortem.parts.detectors.baseline_curve import BaselineCurve as BaselineCurve
from premortem.parts.detectors.baseline_curve import curve_of as curve_of
from premortem.parts.detectors.budget import Budget as Budget
from premortem.parts.detectors.change_point import ChangePoint as ChangePoint
from premortem.parts.detectors.collapse import Collapse as Collapse
from premortem.parts.detectors.exhaustion import Exhaustion as Exhaustion
from premortem.parts.detectors.frozen import Frozen as Frozen
from premortem.parts.detectors.heartbeat import Heartbeat as Heartbeat
from premortem.parts.detectors.low_variance import LowVariance as LowVariance
from premortem.parts.detectors.non_finite import NonFinite as NonFinite
from premortem.parts.detectors.page_hinkley import PageHinkley as PageHinkley
from premortem.parts.detectors.plateau import Plateau as Plateau
from premortem.parts.detectors.progress import Progress as Progress
from premortem.parts.detectors.quantile import Quantile as Quantile
from premortem.parts.detectors.ratio_to_baseline import RatioToBaseline as RatioToBaseline
from premortem.parts.detectors.ratio_to_best import RatioToBest as RatioToBest
from premortem.parts.detectors.rising import Rising as Rising
from premortem.parts.detectors.shift import Shift as Shift
from premortem.parts.detectors.spike import Spike as Spike
from premortem.parts.detectors.streak import Streak as Streak
from premortem.parts.detectors.threshold import Threshold as Threshold
from premortem.parts.detectors.training import gradient_norm_detectors as gradient_norm_detectors
from premortem.parts.detectors.training import training_loss_detectors as training_loss_detectors
