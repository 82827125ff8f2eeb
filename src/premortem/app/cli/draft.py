"""A register made on the spot for risks that no register names yet, so that a new risk can be drilled at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ENTRY = """  - id: {draft}{number}
    title: {title}
    status: active
    stage: {stage}
    severity: high
    probability: medium
    set_by: premortem
    owner: whoever adds the risk
    outcome: to be written in the register that takes this risk
    risks:
      - risk: {risk}
    sees:
      - signal: {signal}
        note: the risk's own thresholds
    ladder:
{ladder}
    contingency: {contingency}
    drill: the cases of the risk's own drill
"""
_HEAD = """schema: premortem/v1
register: draft
title: risks that no register names yet
source: premortem
entries:
"""


def entry_text(risk_id: str, number: int) -> str:
    """An entry for a risk, as YAML; raises ``ConfigError`` for an unknown risk."""
    import json

    from premortem.run.discover import find_risk
    from premortem.run.drill import DRAFT

    risk = find_risk(risk_id, "the register").load()
    params = risk.params()
    last = risk.contingency(params)
    ladder = "\n".join(f"      - rung: {json.dumps(rung.name)}" for rung in risk.rungs(params))
    stage, signal = risk_id.partition("/")[0], risk.watches(params)[0].signal
    return _ENTRY.format(
        draft=DRAFT, number=number, title=json.dumps(risk.title),
        stage=stage, risk=risk_id, signal=signal, ladder=ladder,
        contingency=json.dumps(last.name if last else "hand over to a person"),
    )  # fmt: skip


@contextmanager
def draft_register(risks: Sequence[str]) -> Iterator[Path | None]:
    """A register file with one entry for each risk; ``None`` where there is none."""
    if not risks:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="premortem-") as folder:
        path = Path(folder) / "draft.yaml"
        path.write_text(_HEAD + "".join(entry_text(risk, i + 1) for i, risk in enumerate(risks)), "utf-8")
        yield path
