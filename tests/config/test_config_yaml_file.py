"""Reading one file: YAML 1.2, no tricks, every refusal with its line."""

import math

import pytest

from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.yaml_file import MAX_ALIASES, MAX_BYTES, read_yaml


def read(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def refusal(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    (issue,) = caught.value.issues
    assert issue.file == tmp_path / "file.yaml"
    return issue


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("0.5", 0.5),
        ("010", 10),
        ("NO", "NO"),
        ("yes", "yes"),
        ("12:30:00", "12:30:00"),
        ("'5'", "5"),
        ("true", True),
        ("~", None),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(tmp_path, written, meant):
    value = read(tmp_path, f"key: {written}").data["key"]
    assert value == meant
    assert type(value) is type(meant)


def test_infinity_is_a_float_that_the_schema_can_refuse(tmp_path):
    assert math.isinf(read(tmp_path, "key: .inf").data["key"])


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ("alpha: 0.1\nalpha: 0.5\n", 2, 'duplicate key "alpha"'),
        ("plan:\n  alpha: 0.1\n  alpha: 0.5\n", 3, 'duplicate key "alpha"'),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "tag "),
        ("a: !secret x\n", 1, "tag !secret is not allowed"),
        ("a: [1, 2\nb: 3\n", 2, "expected"),
        ("a: *nobody\n", 1, "undefined alias"),
        ("- a\n- b\n", 1, "must be a mapping, got list"),
        ("", 1, "must be a mapping, got NoneType"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("%YAML 1.1\n---\nkey: NO\n", 2, "directive"),
        ("plain: 1\n1: 2\n", 2, "keys must be text"),
        ("a: {? [x] : 2}\n", 1, "keys must be text"),
    ],
)
def test_a_refusal_names_line_and_rule(tmp_path, text, line, rule):
    issue = refusal(tmp_path, text)
    assert issue.line == line
    assert rule in issue.rule


def test_aliases_and_merge_keys_are_read_up_to_a_number(tmp_path):
    text = "base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\n"
    assert read(tmp_path, text).data["other"] == {"x": 1, "y": 3}
    many = "a: &a 1\nb: [" + ", ".join(["*a"] * MAX_ALIASES) + "]\n"
    assert len(read(tmp_path, many).data["b"]) == MAX_ALIASES
    issue = refusal(tmp_path, many.replace("]", ", *a]"))
    assert (issue.line, issue.rule) == (2, f"more than {MAX_ALIASES} aliases")


@pytest.mark.parametrize("fan", [2, 3, 5])
def test_an_alias_bomb_within_the_number_of_aliases_is_refused(tmp_path, fan):
    levels = MAX_ALIASES // fan
    lines = ["l0: &l0 x"]
    lines += [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * fan)}]" for k in range(1, levels)]
    assert "more than" in refusal(tmp_path, "\n".join(lines)).rule


def test_very_deep_nesting_is_refused(tmp_path):
    assert "nested more than" in refusal(tmp_path, "a: " + "[" * 20_000 + "]" * 20_000).rule


def test_a_file_over_one_mebibyte_is_refused_before_it_is_parsed(tmp_path):
    comment = "a: 1\n#"
    assert read(tmp_path, comment + "x" * (MAX_BYTES - len(comment))).data == {"a": 1}
    assert f"at most {MAX_BYTES}" in refusal(tmp_path, comment + "x" * MAX_BYTES).rule


@pytest.mark.parametrize("content", [b"\xff\xfe a: 1", b"a: \xe4"])
def test_bytes_that_are_no_utf8_are_refused(tmp_path, content):
    assert refusal(tmp_path, content).rule == "cannot be read: not UTF-8 text"


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_a_control_character_is_refused_without_a_traceback(tmp_path):
    assert refusal(tmp_path, "a: \x00b\n").rule


def test_lines_of_keys_and_items_are_remembered(tmp_path):
    read_file = read(tmp_path, "a:\n  b:\n    - 1\n    - {c: 2}\n")
    assert read_file.line_of(("a",)) == 1
    assert read_file.line_of(("a", "b", 1)) == 4
    assert read_file.line_of(("a", "b", 1, "c")) == 4
    assert read_file.line_of(("a", "b", 9, "nowhere")) == 2
