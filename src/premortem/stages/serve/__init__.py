"""Serving: one inference worker in one process, a small room that a service is built around.

``Solver(Reasoner(bundle, config))`` takes puzzles by ``submit`` and answers them in batches; ``InferenceWorkload``
offers it to the guard. ``docs/serve.md`` says what it is and what it is not yet.
"""

from premortem.stages.serve.answer import Answer as Answer
from premortem.stages.serve.answer import Counts as Counts
from premortem.stages.serve.answer import Lost as Lost
from premortem.stages.serve.answer import Refused as Refused
from premortem.stages.serve.cache import AnswerCache as AnswerCache
from premortem.stages.serve.cache import Thought as Thought
from premortem.stages.serve.reasoner import Reasoner as Reasoner
from premortem.stages.serve.reasoner import hand_back as hand_back
from premortem.stages.serve.solver import Settings as Settings
from premortem.stages.serve.solver import Solver as Solver
from premortem.stages.serve.workload import InferenceWorkload as InferenceWorkload
