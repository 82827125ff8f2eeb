"""premortem without any setting: its bundles come at its own pace, at most 4 % of the time."""

from __future__ import annotations

import harness
from ours import Premortem

if __name__ == "__main__":
    harness.main(Premortem)
