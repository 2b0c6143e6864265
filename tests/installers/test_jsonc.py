"""The JSONC splicer: nothing but our key changes, and taking it out gives the same bytes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dataqueue.installers import jsonc
from dataqueue.installers.errors import Malformed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ENTRY = {"command": "uvx", "args": ["--from", "dataqueue==0.1.0", "dataqueue", "mcp"]}
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda key: key != "ours")
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)


SCALARS = ["1", "1.0", "-0", "1E5", "1e-7", "true", "null", '"a"', '"\\u00e9 é // \\""', '"}"', '""']
GAPS = ["", "", "", " ", "\t", "@", "@    ", "/* a, {b} */", ' // c: "d" }@', " /**/@  // e@", "@ // f@ /* g@ */ "]


@st.composite
def documents(draw: st.DrawFn, root: bool = True, depth: int = 2, eol: str | None = None) -> str:
    """JSON with comments, odd spaces and trailing commas; no key stands twice."""
    if eol is None:
        eol = draw(st.sampled_from(["\n", "\r\n"]))

    def gap() -> str:
        return draw(st.sampled_from(GAPS)).replace("@", eol)

    kind = "object" if root else draw(st.sampled_from(["object", "array", "scalar"]))
    if kind == "scalar" or depth == 0:
        text = draw(st.sampled_from(SCALARS))
    else:
        inner = [draw(documents(False, depth - 1, eol)) for _ in range(draw(st.integers(0, 3)))]
        if kind == "object":
            names = draw(st.permutations(["a", "b c", "// é", "", "\\"]))
            inner = [f"{json.dumps(name)}{gap()}:{gap()}{value}" for name, value in zip(names, inner, strict=False)]
        trailing = "," + gap() if inner and draw(st.booleans()) else ""
        parts = ",".join(f"{gap()}{value}{gap()}" for value in inner)
        text = ("{%s%s}" if kind == "object" else "[%s%s]") % (parts or gap(), trailing)
    return draw(st.sampled_from(["", "\ufeff"])) + gap() + text + gap() if root else text


paths = st.sampled_from([["ours"], ["ours", "dataqueue"], ["ours", "a", "b"]])
values = st.sampled_from([ENTRY, {}, 1, True, "text", [], {"a": {"b": {"c": [1, 2]}}}])


def subsequence(small: str, large: str) -> bool:
    rest = iter(large)
    return all(character in rest for character in small)


@relaxed
@given(documents(), paths, values)
def test_a_key_set_in_the_root_and_deleted_again(text: str, path: list[str], value: Any) -> None:
    before = jsonc.load(text)
    after = jsonc.set_value(text, path, value)
    assert jsonc.load(after) == {**before, path[0]: nested(path[1:], value)}
    assert subsequence(text, after)
    assert jsonc.set_value(after, path, value) == after
    assert jsonc.delete(after, path) == text


def nested(path: list[str], value: Any) -> Any:
    return {path[0]: nested(path[1:], value)} if path else value


@relaxed
@given(documents(), st.data())
def test_a_key_set_in_any_object_and_deleted_again(text: str, data: st.DataObject) -> None:
    loaded = jsonc.load(text)
    path = ["ours"]
    place = loaded
    while inner := [key for key, value in place.items() if isinstance(value, dict)]:
        if not data.draw(st.booleans()):
            break
        path.insert(-1, data.draw(st.sampled_from(inner)))
        place = place[path[-2]]
    after = jsonc.set_value(text, path, ENTRY)
    place["ours"] = ENTRY
    assert jsonc.load(after) == loaded
    assert subsequence(text, after)
    assert jsonc.delete(after, path) == text


@relaxed
@given(documents(), values, values)
def test_replacing_a_value_touches_nothing_else(text: str, first: Any, second: Any) -> None:
    once = jsonc.set_value(text, ["ours"], first)
    twice = jsonc.set_value(once, ["ours"], second)
    assert jsonc.load(twice) == {**jsonc.load(text), "ours": second}
    assert jsonc.delete(twice, ["ours"]) == text


@relaxed
@given(documents(), st.data())
def test_any_key_can_be_deleted(text: str, data: st.DataObject) -> None:
    loaded = jsonc.load(text)
    if not loaded:
        return
    key = data.draw(st.sampled_from(list(loaded)))
    after = jsonc.delete(text, [key])
    del loaded[key]
    assert after is None or jsonc.load(after) == loaded
    assert after is not None or not loaded
    assert subsequence(after or "", text)


@relaxed
@given(st.text(st.sampled_from(list("{}[]\",:/*\\\n\r\t -.01eEtrufalsn\ufeff'")), max_size=40))
def test_what_is_taken_as_json_is_so_for_python_too(text: str) -> None:
    try:
        loaded = jsonc.load(text)
    except Malformed:
        return
    assert isinstance(loaded, dict)
    if "/" not in text and "," not in text and text.strip(" \t\r\n\ufeff"):
        assert json.loads(text.removeprefix("\ufeff")) == loaded


@relaxed
@given(
    st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12),
    st.integers(0, 4) | st.none(),
)
def test_all_json_is_read_as_python_reads_it(value: Any, indent: int | None) -> None:
    assert jsonc.load(json.dumps({"x": value}, indent=indent)) == {"x": value}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[]", 1, "a list, not an object"),
        ("\n\n[1]", 3, "a list, not an object"),
        ('"text"', 1, "only a string"),
        ("12", 1, "only a number"),
        ("null", 1, "only a literal"),
        ("{", 1, "ends where"),
        ('{\n  "a": 1\n  "b": 2\n}', 3, "a comma or }"),
        ('{"a": 1,, "b": 2}', 1, "a key in double quotes"),
        ("{'a': 1}", 1, "a key in double quotes"),
        ("{a: 1}", 1, "a key in double quotes"),
        ('{"a" 1}', 1, "a colon"),
        ('{\r\n"a": 01\r\n}', 2, "a comma or }"),
        ('{\n"a": NaN}', 2, "a value"),
        ('{"a": "x\n"}', 1, "a string is not closed"),
        ('{"a": "\\x"}', 1, "wrong escape"),
        ('{"a": 1} x', 1, "behind the end"),
        ('{"a": 1}\n{"b": 2}', 2, "behind the end"),
        ("{\n/* open", 2, "a comment is not closed"),
        ('{"a": [1,,2]}', 1, "a value"),
        ('{"a": [1 2]}', 1, "a comma or ]"),
        ("{,}", 1, "a key"),
        ('{"a":' * 500 + "1" + "}" * 500, 1, "nested"),
        ("<<<<<<< HEAD\n{}", 1, "a value"),
    ],
)
def test_malformed_text_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    for call in (jsonc.load, lambda text: jsonc.set_value(text, ["k"], 1), lambda text: jsonc.delete(text, ["k"])):
        with pytest.raises(Malformed) as caught:
            call(text)
        assert caught.value.line == line
        assert said in caught.value.reason


def test_a_key_that_stands_twice_or_holds_no_object_is_refused() -> None:
    with pytest.raises(Malformed, match="line 2: the key a stands twice in the file"):
        jsonc.set_value('{"a": {},\n"a": {}}', ["a", "b"], 1)
    with pytest.raises(Malformed, match=r"line 1: a\.b is a list, not an object"):
        jsonc.set_value('{"a": {"b": []}}', ["a", "b", "c"], 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "s": {\n    "n": {\n      "command": "c"\n    }\n  }\n}'),
        ("{}", '{"s": {\n  "n": {\n    "command": "c"\n  }\n}}'),
        ('{\n\t"s": {}\n}\n', '{\n\t"s": {"n": {\n\t\t"command": "c"\n\t}}\n}\n'),
        (
            '{\n    "s": {\n        "x": 1 // mine\n    },\n}\n',
            '{\n    "s": {\n        "x": 1, // mine\n        "n": {\n            "command": "c"\n        }\n    },\n}\n',
        ),
        ('{"s": {"x": 1}}', '{"s": {"x": 1, "n": { "command": "c" }}}'),
        ('{"x": 1}', '{"x": 1, "s": { "n": { "command": "c" } }}'),
        ('{"x": 1, // c\r\n}', '{"x": 1, // c\r\n  "s": { "n": { "command": "c" } },\r\n}'),
    ],
)
def test_how_an_insertion_looks(before: str, after: str) -> None:
    assert jsonc.set_value(before, ["s", "n"], {"command": "c"}) == after
    assert jsonc.delete(after, ["s", "n"]) == before


def test_a_file_that_was_made_for_us_goes_away() -> None:
    assert jsonc.delete(jsonc.new(["s", "n"], ENTRY), ["s", "n"]) is None
    for empty in ("", "\n", "\ufeff", " \r\n"):
        assert jsonc.delete(jsonc.set_value(empty, ["s", "n"], ENTRY), ["s", "n"]) == empty


def test_numbers_longer_than_python_converts_are_kept() -> None:
    text = '{"n": %s}' % ("9" * 5000)
    assert jsonc.set_value(text, ["k"], 1) == text[:-1] + ', "k": 1}'
