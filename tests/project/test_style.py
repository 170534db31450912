"""The style that keeps the code readable, as `dev/style/measure.py` measures it."""

import subprocess
import sys

import pytest
from style import measure
from tracked import HOUSE, tracked

PRODUCT = [
    path
    for path in tracked()
    if path.suffix == ".py" and path.relative_to(HOUSE).parts[0] in measure.PRODUCT
]


@pytest.fixture(scope="module")
def measures() -> measure.Measures:
    """Return what all of the product comes to; a few seconds, once."""
    return measure.measure(HOUSE, PRODUCT)


def test_conditional_expressions_are_few_and_never_nested(measures):
    """At most ten per 1,000 lines, and none within another: an `if` statement reads more easily."""
    assert measures.lines > 30_000
    assert measures.count("conditionals") * 1000 <= 10 * measures.lines
    assert measures.findings["nested"] == []


@pytest.mark.parametrize("kind", ["comprehensions", "positional"])
def test_steps_and_arguments_are_named(kind, measures):
    """A comprehension has one `for` and one `if`, and four arguments have their names."""
    assert [str(place) for place in measures.findings[kind]] == []


def test_code_has_comments():
    """At least four lines in a hundred say why the code is as it is."""
    for folder in measure.PRODUCT:
        paths = [path for path in PRODUCT if path.is_relative_to(HOUSE / folder)]
        its = measure.measure(HOUSE, paths)
        assert its.comments * 100 >= 4 * its.code_lines, folder


def test_a_class_name_means_one_class(measures):
    """No two classes have one name, unless they are the same rows in the domain and in the API."""
    modules = ("model", "timestamps", "declarations")
    rows = [{f"app/domain/{name}.py"} for name in modules]
    layers = [{"graphql/api/schema.py", *domain} for domain in rows]
    repeated = {
        name: [str(place) for place in places]
        for name, places in measures.repeated_classes.items()
        if {place.path for place in places} not in layers
    }
    assert repeated == {}


# Each source, and what must be found in it.
SOURCES = {
    "nested conditionals": ("a = 1 if b else 2 if c else 3", {"conditionals": 2, "nested": 1}),
    "a conditional in a condition": ("a = 1 if (2 if b else c) else 3", {"nested": 1}),
    "a conditional in a call": ("a = f(1 if b else 2) if c else 3", {"nested": 1}),
    "side by side": ("a = [1 if b else 2, 3 if c else 4]", {"conditionals": 2, "nested": 0}),
    "two fors": ("a = [x for y in z for x in y]", {"comprehensions": 1}),
    "two ifs": ("a = {x for x in y if x if z}", {"comprehensions": 1}),
    "four arguments": ("f(1, 2, 3, 4)", {"positional": 1}),
    "four arguments, one named": ("f(1, 2, 3, d=4)", {"positional": 0}),
    "any number of arguments": ("max(1, 2, 3, 4)", {"positional": 0}),
    "a long line": (f"a = '{'x' * 100}'", {"long": 1}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_measured(name, tmp_path):
    source, counts = SOURCES[name]
    path = tmp_path / "module.py"
    path.write_text(source)
    measures = measure.measure(tmp_path, [path])
    assert {kind: measures.count(kind) for kind in counts} == counts


def test_comments_are_counted(tmp_path):
    """A comment for a tool alone does not count, nor does a `#` within a text."""
    path = tmp_path / "module.py"
    path.write_text(
        '"""A docstring."""\n\n# Why.\na = 1  # Why.\nb = "# no"\nc = 2  # noqa: E501\n'
    )
    measures = measure.measure(tmp_path, [path])
    assert (measures.comments, measures.code_lines) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param([], 0, "app + jobs + graphql", marks=pytest.mark.long),
        (["jobs"], 0, "comments / 100"),
        (["jobs", "--list", "classes"], 0, "class names that are defined twice"),
        pytest.param(["--words"], 0, "whoever, somebody", marks=pytest.mark.long),
        (["nowhere"], 2, "There is no folder nowhere"),
        (["--root", "/nowhere"], 2, "is not a checkout of git"),
    ],
    ids=["whole table", "table", "list", "words", "no folder", "no checkout"],
)
def test_the_command(arguments, code, text):
    command = [sys.executable, "dev/style/measure.py", *arguments]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert text in done.stdout + done.stderr
