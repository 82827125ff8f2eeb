"""The shape of a register file; the JSON schema is generated from these types.

First pass of binding: no risk is imported here. Unknown keys are refused; every duration has a unit.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

SCHEMA_VERSION = "premortem/v1"

Severity = Literal["critical", "high", "medium", "low"]
Assessment = Literal["green", "yellow", "red", "critical"]
Scalar = float | int | bool | str
Length = Annotated[str, Meta(description="a duration with its unit", examples=["20 ticks", "30 s", "1 assessment"])]
Percent = Annotated[float, Meta(ge=0, le=100)]


class Threshold(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What raises a finding, as the source states it; ``better`` says which side is healthy."""

    signal: str
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    yellow: float | None = None
    red: float | None = None
    critical: float | None = None
    target: float | None = None
    window: str = ""
    note: str = ""
    """In words what figures cannot say; needed where there is no figure."""


class RiskUse(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A risk that this entry runs, with the parameters that it sets."""

    risk: Annotated[str, Meta(pattern=r"^[a-z0-9_-]+/[a-z0-9_-]+$", examples=["train/divergence"])]
    params: dict[str, Scalar] = {}


class RungUse(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rung of the ladder, in this entry's order; what is left out is the risk's default."""

    rung: str
    by: float | str | None = None
    tries: Annotated[int, Meta(ge=1, le=20)] | None = None
    relation: Literal["cumulative", "alternative", "irreversible"] | None = None
    settle: Length | None = None
    confirm: Annotated[int, Meta(ge=1)] | None = None
    deadline: Length | None = None
    request: bool = False
    """A request to a person: evidence is asked of a later assessment (kernel decision 12)."""
    note: str = ""


class Entry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One row of a register."""

    id: Annotated[str, Meta(pattern=r"^[A-Z]+-[A-Z0-9.]+$", examples=["HRM-9.1.1"])]
    title: str
    status: Literal["active", "planned"]
    """An active entry runs its risks; a planned one is written down, and is reported as not watched."""
    stage: Annotated[str, Meta(pattern=r"^[a-z][a-z-]*$", examples=["train"])]
    severity: Severity
    probability: Percent | Literal["low", "medium", "high"]
    set_by: Literal["source", "premortem"] = "source"
    """Who set severity and probability: the source, or us where it gives none."""
    owner: str
    """A role, not a person."""
    outcome: str
    """What the owner loses when it fails."""
    causes: list[str] = []
    risks: list[RiskUse] = []
    sees: list[Threshold]
    ladder: list[RungUse]
    carry_out: Literal["until recovered", "all"] = "until recovered"
    """Rungs are climbed until recovered; steps are all carried out, in order."""
    contingency: str
    drill: str
    """The real fault, and the bound."""
    prevention: list[str] = []
    """What is set up before anything fails."""
    success: str = ""
    """The source's own measure of success for this entry."""
    relapse_watch: Length = "50 ticks"
    max_incidents: Annotated[int, Meta(ge=1)] = 10
    per: Length = "2000 ticks"
    decide_by: str = ""
    """The decision point."""
    notes: list[str] = []


class Escalation(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who must know by when."""

    level: Severity
    within: Length
    to: str
    when: list[str] = []
    """The triggers."""
    then: str = ""


class Response(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an assessment sets in motion beyond the ladder."""

    level: Assessment
    to: str
    review: str
    does: list[str] = []


class Measure(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A measured clause of a gate: go beyond ``go``, no-go beyond ``no_go``; between them it is conditional."""

    signal: str
    go: float
    no_go: float
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"


class Gate(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A go / no-go decision over evidence. Missing evidence is no-go."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$", examples=["long-context"])]
    title: str
    at: str
    proven: list[str] = []
    """Entries whose proof must be fresh."""
    measures: list[Measure] = []
    requires: list[str] = []
    """Evidence in words: a report, a sign-off, a test that ran."""
    on_go: list[str] = []
    on_conditional: list[str] = []
    on_no_go: list[str] = []


class Criterion(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A success criterion with three figures; between acceptable and failed is no-go."""

    name: str
    target: float
    acceptable: float
    failed: float
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"


class Flag(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A feature flag, off unless said otherwise."""

    name: str
    default: bool = False
    note: str = ""


class Rollback(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A way back, and how long it may take."""

    name: str
    within: Length
    when: str
    steps: list[str]


class Rollout(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a change reaches users: shadow, then growing shares."""

    shadow: Length
    shares_pct: list[Percent]
    over: Length
    load_factor: Annotated[float, Meta(ge=1)] = 1.0
    """Times the expected load, in the load test before it."""
    each_stage: list[str] = []


class Checklist(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What must be in place at a moment of the deployment."""

    name: str
    items: list[str]


class Band(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a word of severity or probability means in this register, in per cent."""

    of: Literal["severity", "probability"]
    name: Literal["critical", "high", "medium", "low"]
    over: Percent
    up_to: Percent
    meaning: str = ""


class RegisterFile(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One YAML file."""

    schema: Literal["premortem/v1"]
    register: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$", examples=["long-context"])]
    title: str
    source: str
    entries: list[Entry]
    escalation: list[Escalation] = []
    responses: list[Response] = []
    bands: list[Band] = []
    gates: list[Gate] = []
    criteria: list[Criterion] = []
    flags: list[Flag] = []
    rollbacks: list[Rollback] = []
    rollout: Rollout | None = None
    checklists: list[Checklist] = []
    notes: list[str] = []


def json_schema() -> dict[str, object]:
    """The JSON schema of a register file, for editors and other tools."""
    schema = msgspec.json.schema(RegisterFile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "premortem register", **schema}


def schema_text() -> str:
    """The JSON schema as it ships in ``register.schema.json``."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
