"""Three audiences, three errors: who must act decides which one is raised.

Every message says what was found, where, what was expected and what to do.
"""


class PremortemError(Exception):
    """Root of all errors raised on purpose by premortem."""


class ConfigError(PremortemError, ValueError):
    """The user wrote something wrong; the command line answers with exit code 2."""


class StageError(PremortemError, RuntimeError):
    """The watched system misbehaved: a checkpoint that fails its hash, a disk that is full."""


class BugError(PremortemError, AssertionError):
    """premortem itself is wrong; the command line answers with exit code 3."""
