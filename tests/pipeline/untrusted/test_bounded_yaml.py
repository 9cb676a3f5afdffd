import random
from pathlib import Path

import pytest
import yaml

from pipeline.untrusted import bounded_yaml
from wam.errors import WamError

PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.mark.parametrize(
    "text",
    [
        PARAMS.read_text(),
        "",
        "a: &a {k: 1}\nb: {<<: *a, l: 2}\nc: [*a, *a]\n",
        "1: 2\n'1': 3\n? a b\n: c\n",
        "- 2001-12-14\n- 1:30\n- 0x1f\n- .inf\n- ~\n- !!binary aGk=\n- !!set {a, b}\n",
    ],
)
def test_plain_data_are_those_of_safe_load(text: str) -> None:
    assert bounded_yaml.load(text, "x") == yaml.safe_load(text)


def tree(levels: int, width: int) -> str:
    lines = ["a0: &a0 x"]
    for level in range(1, levels + 1):
        parts = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{parts}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (tree(9, 9), "line 6: more than 50,000 values with all aliases spelled out"),
        (tree(1, 60_000), "at most 262,144"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 20 + "]", "spelled out"),
        ("[" * 10_000, "line 1: nested deeper than 40 levels"),
        ("a: " * 100 + "b", "mapping values are not allowed"),
        ("- " * 10_000, "nested deeper"),
        ("a: &a [1, *a]", r"line 1: \*a holds itself"),
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' is there twice"),
        ("x:\n  k: 1\n  k: 1\n", "line 3: key 'k' is there twice"),
        ("a: " + "9" * 5000, "line 1: a number of 5,000 characters"),
        ("a: *b", "line 1: found undefined alias 'b'"),
        ("a: [1", "line 1: "),
        ("a\x00b", "special characters are not allowed"),
        ("a: 1\n---\nb: 2", "line 2: but found another document"),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: 2001-99-99", "not of its type: ValueError"),
        ("a: !!int x", "not of its type"),
        ("a: !!timestamp x", "not of its type"),
        ("? {a: b}\n: c", "line 1: found unhashable key"),
        ("key" * 5000 + ": [", "line 1: "),
    ],
)
def test_all_else_is_refused_in_one_short_line(text: str, message: str) -> None:
    with pytest.raises(WamError, match=message) as refused:
        bounded_yaml.load(text, "recording.yaml")
    assert str(refused.value).startswith("recording.yaml: ")
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)


def test_no_mutation_raises_anything_else() -> None:
    chance = random.Random(0)
    base = "a: &a {k: [1, 2.5], t: 2001-12-14}\nb: *a\nc:\n  - x\n  - 'y'\n"
    pieces = ["*a", "&b ", "<<: *a", "!!int ", "!!set ", "[", "{", ": ", "? ", "\t", "|", "%", "0b"]
    for _ in range(500):
        text = base
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            text = text[:at] + chance.choice(pieces) + text[at + chance.randint(0, 3) :]
        try:
            bounded_yaml.load(text, "x")
        except WamError as error:
            assert "\n" not in str(error)
