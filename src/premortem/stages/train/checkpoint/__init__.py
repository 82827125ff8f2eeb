"""Checkpoint bundles that cannot lie: hashed per tensor, verified before use, never lost by age.

``save_bundle`` and ``load_bundle`` move one bundle; a ``Shelf`` keeps the bundles of one run, knows which are good,
and finds the newest that can be loaded. ``docs/checkpoints.md`` has the format and what is not covered.
"""

from premortem.stages.train.checkpoint.load import load_bundle as load_bundle
from premortem.stages.train.checkpoint.load import verify_bundle as verify_bundle
from premortem.stages.train.checkpoint.manifest import Bundle as Bundle
from premortem.stages.train.checkpoint.manifest import Manifest as Manifest
from premortem.stages.train.checkpoint.save import Captured as Captured
from premortem.stages.train.checkpoint.save import save_bundle as save_bundle
from premortem.stages.train.checkpoint.search import Rejected as Rejected
from premortem.stages.train.checkpoint.search import Search as Search
from premortem.stages.train.checkpoint.shelf import Shelf as Shelf
