"""An experiment tracker that cannot hold up a run: spool first, sent by a process of its own.

``tracker = premortem.tracking.open("mlflow", project="mine")``, then ``tracker.log({"loss": 1.0}, step)``.
``docs/tracking.md`` has the form of the spool and what is promised for which tracker.
"""

from premortem.stages.tracking.tracker import Tracker
from premortem.stages.tracking.tracker import open_run as open  # noqa: A004 - reads as premortem.tracking.open

__all__ = ["Tracker", "open"]
