"""Append-only evidence: events chained by hash, readings in blocks, the state of runs, baselines, proofs."""

from premortem.ledger.export import export as export
from premortem.ledger.ledger import ALL as ALL
from premortem.ledger.ledger import Filters as Filters
from premortem.ledger.ledger import Health as Health
from premortem.ledger.ledger import Ledger as Ledger
from premortem.ledger.ledger import Problem as Problem
from premortem.ledger.ledger import Reading as Reading
from premortem.ledger.ledger import Receipt as Receipt
from premortem.ledger.ledger import Row as Row
from premortem.ledger.ledger import VerifyReport as VerifyReport
from premortem.ledger.sqlite import SqliteLedger as SqliteLedger
