"""Every reference in a docstring, a comment or a document leads somewhere."""

import pytest
from references import in_lines, in_markdown, in_python, missing, references
from tracked import HOUSE, tracked

# Comments of applied migrations and of the persisted documents are left out: their bytes never
# change again (a checksum, a hash), also where they name something that was renamed. Lock files and
# snapshots are written by tools.
READ = {".md", ".py", ".toml", ".yml", ".mjs", ".js"}
ALSO = {"Makefile", "Containerfile", "run"}  # the last is `.ci/run`
FILES = [file for file in tracked() if file.suffix in READ or file.name in ALSO]

# Words in the form of a reference that are none, with the reason.
NOT_OURS = {
    "__init__.py": "the file of that name in any folder",
    "migrations/NNNN_name.up.sql": "the form of a name, not a name",
    "dev/audit/shots": "made by `make audit`, and not committed",
    "JSON.stringify": "a function of JavaScript",
    "sha256sum": "a command of the system",
    "shell": "a command of Procrastinate",
    "healthchecks": "a command of Procrastinate",
    "doing": "a status that Procrastinate gives to jobs",
    "batch_defer_jobs_async": "a method of Procrastinate",
    "record_property": "a fixture of pytest",
    "pg_advisory_lock": "a function of Postgres",
    "pg_advisory_xact_lock": "a function of Postgres",
    "pg_try_advisory_xact_lock": "a function of Postgres",
    "pg_locks": "a view of Postgres",
    "series.toml": "a file that the operator writes",
    "settings.local.toml": "a file that dynaconf would read",
    "dynaconf_hooks.py": "a file that dynaconf would run",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_every_reference_leads_somewhere(file):
    """Each link, path, module, test and name that the file refers to exists."""
    wrong = {
        str(reference): why
        for reference in references(file)
        if reference.words not in NOT_OURS and (why := missing(reference))
    }
    assert wrong == {}


def test_every_exception_is_needed():
    """Each exception is used somewhere, and would be reported as missing."""
    needed = set()
    for file in FILES:
        needed |= {one.words for one in references(file) if one.words in NOT_OURS and missing(one)}
    assert needed == set(NOT_OURS)


DOCUMENT = HOUSE / "docs" / "sample.md"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("See [it](record.md).", {}, id="a link from the document's folder"),
        pytest.param("See [it](docs/record.md).", {1: "no such file"}, id="a link from the top"),
        pytest.param(
            "1\n[it](record.md#what-happens)\n[it](record.md#law)", {3: "heading"}, id="a heading"
        ),
        pytest.param('<img src="images/none.png">', {1: "no such file"}, id="a picture"),
        pytest.param("[it]: ../nowhere.md", {1: "no such file"}, id="a link at the end"),
        pytest.param("[it](https://example.org/docs/none.md)", {}, id="another site"),
        pytest.param(
            "`app/domain/model.py`, `app/record/model.py`", {1: "no such file"}, id="a path"
        ),
        pytest.param(
            "`migrations/*.sql` and `migrations/*.txt`", {1: "no such file"}, id="a form of names"
        ),
        pytest.param(
            "`docs/record.md#what-happens` `docs/record.md#law`",
            {1: "heading"},
            id="a path's heading",
        ),
        pytest.param(
            "[`model.py`](../app/domain/model.py)", {}, id="a label that is short for its link"
        ),
        pytest.param(
            "```\ncp docs/none.md .\n```\n`docs/none.md`", {4: "no such file"}, id="behind a block"
        ),
        pytest.param("`app.domain.model.Batch`", {}, id="a dotted name"),
        pytest.param("`app.domain.model.Law`", {1: "has no Law"}, id="a dotted name of nothing"),
        pytest.param("as `test_house` and `test_law` show", {1: "no such test"}, id="a test"),
    ],
)
def test_a_document(text, expected):
    """Existing references are accepted; others are reported with their line and the reason."""
    assert_missing(in_markdown(DOCUMENT, text), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('"""Law: docs/record.md."""', {}, id="a docstring"),
        pytest.param(
            '"""Law: record.md, Numbers."""', {1: "no such file"}, id="a file without its folder"
        ),
        pytest.param("x = 1  # see docs/none.md", {1: "no such file"}, id="a comment"),
        pytest.param("x = 'docs/none.md'", {}, id="a string is no prose"),
        pytest.param(
            'def f():\n    """One.\n\n    As api.plan does."""', {4: "has no plan"}, id="a module"
        ),
        pytest.param(
            "# as `batch_chart` is\n# and `inference` was",
            {2: "nothing of ours"},
            id="a module's last name",
        ),
        pytest.param(
            "# `queries.pool_fetcher`\n\n# `queries.law`",
            {3: "has no law"},
            id="a name in a module",
        ),
        pytest.param('def f(law):\n    """Return `law`."""', {}, id="a name of its own"),
        pytest.param(
            "# `asyncio.timeout`\n# `asyncio.law`", {2: "asyncio has no law"}, id="a name of Python"
        ),
    ],
)
def test_a_module(text, expected, tmp_path):
    """The same rules apply to docstrings and comments."""
    file = tmp_path / "sample.py"
    file.write_text(text)
    assert_missing(in_python(file, text), expected)


def test_other_comments():
    """
    The same rules apply to comments after a hash in a Makefile, and after slashes in a script.
    """
    (hash_,) = in_lines(HOUSE / "Makefile", "all:\n\ttrue # docs/none.md")
    assert (hash_.line, hash_.words) == (2, "docs/none.md")
    (slashes,) = in_lines(HOUSE / "x.mjs", "// docs/none.md\nfetch('docs/other.md')")
    assert (slashes.line, slashes.words) == (1, "docs/none.md")


def assert_missing(references, expected):
    """
    The missing references are the expected ones: on these lines, with these words in the reason.
    """
    reasons = {one.line: why for one in references if (why := missing(one))}
    assert reasons.keys() == expected.keys()
    for line, why in reasons.items():
        assert expected[line] in why
