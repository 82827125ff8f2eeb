"""premortem with a bundle an epoch, as every other peer gets; else its defaults."""

from __future__ import annotations

from functools import partial

import harness
from ours import Premortem
from workload import STEPS_AN_EPOCH

if __name__ == "__main__":
    harness.main(partial(Premortem, save_every=STEPS_AN_EPOCH))
