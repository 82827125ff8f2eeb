# ruff: noqa: E501 (a row of a table is one line)
"""Every mistake in a register is shown with its file, line and path, and says what to do."""

import re
from pathlib import Path

import pytest

from premortem.core.errors import ConfigError
from premortem.registers.load import load_register, parse_register
from premortem.registers.mistake import SHOWN, RegisterError
from premortem.registers.source import MAX_BYTES

HEAD = """\
schema: premortem/v1
register: demo
title: Demo
source: test
"""
ENTRY = """\
entries:
  - id: D-1
    title: it fails
    status: planned
    stage: train
    severity: high
    probability: 30
    owner: me
    outcome: an hour
    sees:
      - {signal: loss, yellow: 1, red: 2, critical: 3}
    ladder:
      - rung: try again
    contingency: stop
    drill: break it
"""
GOOD = HEAD + ENTRY


def errors(text: str) -> list[str]:
    with pytest.raises(RegisterError) as caught:
        parse_register(text, "demo.yaml")
    return str(caught.value).splitlines()


def only_error(text: str) -> str:
    lines = errors(text)
    assert len(lines) == 1, lines
    return lines[0]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_example_of_these_tests_loads() -> None:
    assert parse_register(GOOD).entries[0].id == "D-1"


# what is written instead of what, and the one message that it gets
ONE_MISTAKE = [
    ("severity: high", "severty: high", "demo.yaml:10: $.entries[0].severty: found the unknown key 'severty', expected"),
    ("severity: high", "severity: hihg", "demo.yaml:10: $.entries[0].severity: found 'hihg', expected one of critical,"),
    ("    owner: me\n", "", "demo.yaml:6: $.entries[0].owner: found nothing, expected text; add the key 'owner'"),
    ("owner: me", "owner: 3", "demo.yaml:12: $.entries[0].owner: found 3, expected text; put it in quotes"),
    ("owner: me", "owner: [me]", "demo.yaml:12: $.entries[0].owner: found a list, expected text"),
    ("owner: me", "owner:", "demo.yaml:12: $.entries[0].owner: found nothing (null), expected text"),
    ("owner: me", "owner: ' '", "demo.yaml:12: $.entries[0].owner: found empty text, expected some"),
    ("owner: me", "owner: me\n    owner: you", "demo.yaml:13: $.entries[0].owner: found the key 'owner' again (first on line 12)"),
    ("probability: 30", "probability: 130", "demo.yaml:11: $.entries[0].probability: found 130, expected a number from 0 to 100 or one of high, low, medium"),
    ("probability: 30", "probability: hihg", "expected a number from 0 to 100 or one of high, low, medium; did you mean 'high'?"),
    ("probability: 30", "probability: true", "found true, expected a number"),
    ("probability: 30", "probability: .nan", "demo.yaml:11: $.entries[0].probability: found '.nan', expected a finite number"),
    ("probability: 30", f"probability: {'9' * 5000}", "expected a number of at most 15 digits"),
    ("id: D-1", "id: d1", "demo.yaml:6: $.entries[0].id: found 'd1', expected text of the form ^[A-Z]+-[A-Z0-9.]+$ such as 'HRM-9.1.1'"),
    ("id: D-1", "id: !!python/name:os.system D-1", "found the tag '!!python/name:os.system', expected a plain value; remove"),
    ("id: D-1", "1: x\n    id: D-1", "demo.yaml:6: $.entries[0]: found 1 as a key, expected text"),
    ("yellow: 1", "yellow: 5", "$.entries[0].sees[0].yellow: found yellow 5 beyond red 2 where lower is better, expected yellow first"),
    ("red: 2", "red: 4", "$.entries[0].sees[0].red: found red 4 beyond critical 3 where lower is better, expected red first"),
    ("red: 2", "red: 1e999", "demo.yaml:15: $.entries[0].sees[0].red: found '1e999', expected a finite number"),
    ("yellow: 1, red: 2, critical: 3", "better: lower", "$.entries[0].sees[0]: found neither a figure nor a note"),
    ("yellow: 1", "target: 9, yellow: 1", "found target 9 beyond yellow 1"),
    ("yellow: 1, red: 2, critical: 3", "better: higher, yellow: 1, red: 2", "found yellow 1 beyond red 2 where higher is better"),
    ("- rung: try again", "- {rung: try again, by: [1]}", "demo.yaml:17: $.entries[0].ladder[0].by: found a list, expected a number or text or nothing"),
    ("- rung: try again", "- {rung: try again, tries: 0}", "$.entries[0].ladder[0].tries: found 0, expected a whole number from 1 to 20 or nothing"),
    ("- rung: try again", "- {rung: try again, tries: 1.5}", "found 1.5, expected a whole number from 1 to 20 or nothing"),
    ("- rung: try again", "- {rung: try again, settle: 20}", "$.entries[0].ladder[0].settle: found 20, expected text such as '20 ticks' or nothing; put it in quotes"),
    ("- rung: try again", "- {rung: try again, settle: 20 tocks}", "found '20 tocks', expected a duration with a unit such as '20 ticks'"),
    ("- rung: try again", "- {rung: try again, deadline: 0 s}", "found '0 s', expected a duration above zero that ends"),
    ("- rung: try again", "- {rung: try again, request: yes}", "found 'yes', expected true or false"),
    ("- rung: try again", "- rung: a\n      - rung: a", "demo.yaml:18: $.entries[0].ladder[1].rung: found 'a' again, expected each rung once"),
    ("ladder:\n      - rung: try again", "ladder: []", "demo.yaml:16: $.entries[0].ladder: found no rung, expected at least one"),
    ("sees:\n      - {signal: loss, yellow: 1, red: 2, critical: 3}", "sees: []", "$.entries[0].sees: found no threshold"),
    ("sees:\n", "sees: 3\n    x:\n", ["$.entries[0].sees: found 3, expected a list; write it as a list", "unknown key 'x'"]),
    ("status: planned", "status: active", "demo.yaml:8: $.entries[0].status: found 'active' without risks, expected risks to run"),
    ("owner: me", "owner: me\n    risks: [{risk: train/x}]", "$.entries[0].risks: found risks under status 'planned', expected none"),
    ("status: planned", "status: active\n    risks: [{risk: a/b}, {risk: a/b}]", "$.entries[0].risks[1].risk: found 'a/b' again"),
    ("status: planned", "status: active\n    risks: [{risk: nowhere}]", "found 'nowhere', expected text of the form"),
    ("status: planned", "status: active\n    risks: [{risk: a/b, params: {k: [1]}}]", "$.entries[0].risks[0].params.k: found a list, expected a number or a whole number or true or false or text"),
    ("owner: me", "owner: me\n    relapse_watch: soon", "$.entries[0].relapse_watch: found 'soon', expected a duration"),
    ("owner: me", "owner: me\n    per: 0 ticks", "$.entries[0].per: found '0 ticks', expected a duration above zero"),
    ("owner: me", "owner: &o me\n    decide_by: *o", "demo.yaml:12: $.entries[0].decide_by: found an alias of another part of the file"),
    ("schema: premortem/v1", "schema: premortem/v2", "demo.yaml:1: $.schema: found 'premortem/v2', expected one of premortem/v1; did you mean"),
    ("title: Demo", "title: Demo\ntitlle: x", "demo.yaml:4: $.titlle: found the unknown key 'titlle', expected one of schema, register, title"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), ONE_MISTAKE)
def test_one_mistake_gets_one_message(old: str, new: str, message: str | list[str]) -> None:
    found = errors(changed(old, new))
    wanted = [message] if isinstance(message, str) else message
    assert len(found) == len(wanted), found
    for line, text in zip(found, wanted, strict=True):
        assert re.match(r"demo\.yaml:\d+: \$", line)
        assert text in line


GATE = "gates:\n  - {name: g, title: t, at: week 2, proven: [D-1]"
SECTIONS = [
    (GATE.replace("D-1", "D-l") + "}", "$.gates[0].proven[0]: found 'D-l', expected the id of an entry of this register (D-1); did you mean 'D-1'?"),
    (GATE.replace("proven: [D-1]", "on_no_go: [stop]") + "}", "demo.yaml:21: $.gates[0]: found a gate that asks for no evidence"),
    (GATE + "}\n  - {name: g, title: t, at: week 3, proven: [D-1]}", "$.gates[1].name: found 'g' again (first at $.gates[0]), expected it once"),
    (GATE + ", measures: [{signal: s, go: 9, no_go: 3}]}", "$.gates[0].measures[0].go: found go 9 beyond no_go 3 where lower is better"),
    ("criteria: [{name: c, target: 5, acceptable: 3, failed: 9}]", "$.criteria[0].target: found target 5 beyond acceptable 3"),
    ("criteria: [{name: c, better: higher, target: 5, acceptable: 3, failed: 4}]", "$.criteria[0].acceptable: found acceptable 3 beyond failed 4"),
    ("flags: [{name: f}, {name: f}]", "$.flags[1].name: found 'f' again"),
    ("flags: [{name: f, default: 1}]", "$.flags[0].default: found 1, expected true or false"),
    ("escalation: [{level: high, within: soon, to: me}]", "$.escalation[0].within: found 'soon', expected a duration"),
    ("escalation: [{level: hgh, within: 1 h, to: me}]", "found 'hgh', expected one of critical, high, low, medium; did you mean 'high'?"),
    ("rollbacks: [{name: r, within: 5, when: w, steps: [s]}]", "$.rollbacks[0].within: found 5, expected text such as '20 ticks'; put it in quotes"),
    ("rollbacks: [{name: r, within: 0 s, when: w, steps: [s]}]", "$.rollbacks[0].within: found '0 s', expected a duration above zero"),
    ("bands: [{of: severity, name: low, over: 5, up_to: 5}]", "$.bands[0].over: found over 5 and up_to 5, expected over below up_to"),
    ("rollout: {shadow: 1 week, over: 3 weeks, shares_pct: [25, 5]}", "$.rollout.shares_pct: found [25.0, 5.0], expected growing shares"),
    ("rollout: {shadow: a while, over: 3 weeks, shares_pct: [5]}", "$.rollout.shadow: found 'a while', expected a duration"),
    ("rollout: soon", "$.rollout: found 'soon', expected a mapping or nothing"),
    ("notes: one", "$.notes: found 'one', expected a list; write it as a list"),
    ("notes: [1]", "$.notes[0]: found 1, expected text; put it in quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "message"), SECTIONS)
def test_a_mistake_beside_the_entries_gets_one_message(section: str, message: str) -> None:
    assert message in only_error(GOOD + section + "\n")


def test_all_mistakes_of_a_file_are_shown_in_its_order() -> None:
    second = ENTRY.replace("entries:\n", "").replace("yellow: 1", "yellow: 7").replace("D-1", "D-2")
    third = ENTRY.replace("entries:\n", "").replace("severity: high", "severity: hi").replace("    owner: me\n", "")
    gate = "gates:\n  - {name: g, title: t, at: now, proven: [D-3]}\n"
    found = errors(GOOD + second + third + gate + "typo: 1\n")
    assert [re.sub(r"found .*", "", line) for line in found] == [
        "demo.yaml:29: $.entries[1].sees[0].yellow: ",
        "demo.yaml:34: $.entries[2].owner: ",
        "demo.yaml:38: $.entries[2].severity: ",
        "demo.yaml:48: $.gates[0].proven[0]: ",
        "demo.yaml:49: $.typo: ",
    ]


def test_two_entries_with_one_id_are_refused() -> None:
    found = only_error(GOOD + ENTRY.replace("entries:\n", ""))
    assert "demo.yaml:20: $.entries[1].id: found 'D-1' again (first at $.entries[0])" in found


def test_a_gate_may_name_an_entry_that_has_another_mistake() -> None:
    text = changed("owner: me", "owner: 3") + GATE + "}\n"
    assert "$.entries[0].owner" in only_error(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "demo.yaml:1: $: found an empty file, expected a mapping"),
        ("# nothing\n", "found an empty file"),
        ("hello", "demo.yaml:1: $: found 'hello', expected a mapping"),
        ("- a", "demo.yaml:1: $: found a list, expected a mapping"),
        ("a: [1\nb: 2", "demo.yaml:2: $: found text that is not YAML at column"),
        ("a: b: c", "demo.yaml:1: $: found text that is not YAML at column 5"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "single document"),
        (
            "a: " + "[" * 60 + "]" * 60,
            "demo.yaml:1: $: found text that is not YAML at column 42 (nested more than 40 deep)",
        ),
        ("a: \0", "control characters are not allowed"),
        ("a: \ud800", "surrogates not allowed"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_line(text: str, message: str) -> None:
    assert message in only_error(text)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        HEAD + "entries: &e [*e]",
        HEAD + "entries: " + "[" * 100_000,
        HEAD + "entries:\n  " + "- " * 100_000 + "x",
        HEAD + "entries: " + "{a: " * 100_000,
        HEAD + f"entries: [{{max_incidents: {'9' * 100_000}}}]",
        HEAD + f"entries: [{{probability: 1{'0' * 400}.5}}]",
        HEAD + "entries: !!python/object/apply:os.system ['true']",
        HEAD + "entries: !!set {a, b}",
        HEAD + "entries: [!!int x, !!float y, !!bool z, !!null w]",
        "<<: {a: 1}\n" + HEAD,
        "? [a, b]\n: c\n" + HEAD,
    ],
)
def test_hostile_text_gets_an_error_and_never_a_crash(text: str) -> None:
    assert all(line.startswith("demo.yaml:") for line in errors(text))


def test_many_mistakes_are_kept_and_the_message_is_cut() -> None:
    text = GOOD + "".join(f"unknown_{i}: 1\n" for i in range(SHOWN + 7))
    with pytest.raises(RegisterError) as caught:
        parse_register(text, "demo.yaml")
    assert len(caught.value.mistakes) == SHOWN + 7
    assert str(caught.value).endswith("demo.yaml: and 7 more mistakes")


def test_a_mistake_can_be_read_by_a_program() -> None:
    with pytest.raises(RegisterError) as caught:
        parse_register(changed("owner: me", "owner: 3"), "demo.yaml")
    (mistake,) = caught.value.mistakes
    assert (mistake.line, mistake.column, mistake.path) == (12, 12, ("entries", 0, "owner"))


def test_words_of_old_yaml_are_text_and_small_numbers_are_numbers() -> None:
    text = (
        changed("owner: me", "owner: on")
        .replace("yellow: 1,", "yellow: 1e-5,")
        .replace("drill: break it", "drill: 2025-10-24")
    )
    entry = parse_register(text).entries[0]
    assert (entry.owner, entry.sees[0].yellow, entry.drill) == ("on", 1e-5, "2025-10-24")


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert load_register(file).register == load_register(str(file)).register == "demo"


def test_a_name_that_is_nearly_right_is_corrected() -> None:
    with pytest.raises(
        ConfigError, match=r"ultrathik: found no such file, .*hrm, ultrathink.*did you mean 'ultrathink'\?"
    ):
        load_register("ultrathik")


def test_a_folder_cannot_be_read_as_a_register(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\), expected a register"):
        load_register(tmp_path)


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_register("a\0b")


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(RegisterError, match=r"latin\.yaml:2: \$: found byte 0xe9, expected UTF-8 text"):
        load_register(file)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="found more than 1000000 bytes"):
        load_register(file)
