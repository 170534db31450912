"""GraphiQL's page: its strict policy, its content, and that an installed service has it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from api import graphiql_page
from api.graphiql_page import CDN, PACKAGE_FILES, documents
from api.persisted import OWN_DOCUMENTS

HOUSE = Path(__file__).parents[3]
FOLDER = HOUSE / "graphql" / "api" / "graphiql"
POLICY = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'", graphiql_page.DIALOG_STYLE_HASH],
    "connect-src": ["'self'"],
    "font-src": ["data:"],
    "img-src": ["data:"],
    "base-uri": ["'none'"],
    "form-action": ["'none'"],
    "frame-ancestors": ["'none'"],
}


def policy(of: graphiql_page.GraphiQLPage) -> dict[str, list[str]]:
    """Return what a page's policy allows."""
    lines = of.headers["Content-Security-Policy"].split("; ")
    return {what: sources for what, *sources in map(str.split, lines)}


def addresses(of: graphiql_page.GraphiQLPage) -> list[str]:
    """Return the addresses from which a page loads something."""
    return re.findall(r'(?:src|href)="([^"]+)" integrity', of.html)


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """A folder of packages, as npm leaves it, with made-up files that have the right hashes."""
    for name in PACKAGE_FILES:
        file = tmp_path / re.sub(r"@[\d.]+", "", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"/* {name} */")
        monkeypatch.setitem(
            PACKAGE_FILES, name, b64encode(hashlib.sha256(file.read_bytes()).digest()).decode()
        )
    return tmp_path


def test_everything_comes_from_here(packages):
    """With the packages' files in place no other host is named."""
    made = graphiql_page.build_page(packages=packages)
    assert policy(made) == POLICY
    assert set(addresses(made)) == set(made.files)
    assert "http" not in re.sub(r'data-documents="[^"]*"', "", made.html)


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_otherwise_from_one_other_host(fault, packages):
    """
    If a file is missing or has another hash, all are loaded from a public CDN, which the policy
    allows.
    """
    file = packages / "react" / "umd" / "react.production.min.js"
    file.unlink() if fault == "missing" else file.write_text("other")
    made = graphiql_page.build_page(packages=packages)
    assert policy(made) == {
        **POLICY,
        "script-src": ["'self'", CDN],
        "style-src": ["'self'", CDN, graphiql_page.DIALOG_STYLE_HASH],
    }
    foreign = [address for address in addresses(made) if not address.startswith("/")]
    assert foreign == [f"{CDN}/npm/{name}" for name in PACKAGE_FILES]
    assert "make graphiql" in made.html


def test_nothing_is_inline(packages):
    """Every script and style is a file whose hash the page names."""
    html = graphiql_page.build_page("Rehearsed.", packages).html
    assert re.findall(r"<script(?! defer src=)|<style|style=|\son\w+=|javascript:", html) == []
    assert (
        html.count("<script") + html.count('rel="stylesheet"')
        == html.count('integrity="sha256-')
        == 7
    )


# The kind: every moment in which GraphiQL is not loaded. What a browser shows then is tested by
# dev/audit/graphiql.mjs: scripts that are slow, lost, blocked or changed, no script at all, and a
# script that throws.
@pytest.mark.parametrize(
    "here", [pytest.param(True, id="from here"), pytest.param(False, id="from the CDN")]
)
def test_the_html_itself_says_what_is_loading(packages, tmp_path_factory, here):
    """
    Before any script is loaded, a live region says that the page loads, and what to do if it does
    not.
    """
    folder = packages if here else tmp_path_factory.mktemp("none")
    html = graphiql_page.build_page(packages=folder).html
    status, rest = html.split('<div id="status" role="status">')[1].split("</div>", 1)
    assert "<script" not in html.split('<div id="status"')[0] + status
    assert "<script" in rest
    lines = dict(re.findall(r'<p id="(\w+)"(?: hidden)?>(.*?)</p>', status))
    assert lines["loading"] == "GraphiQL is loading…"
    for name in ("slow", "failed"):
        assert ("make graphiql" in lines[name]) is not here
        assert ("Reload the page" in lines[name]) is here
        assert "The API answers without it" in lines[name]
    assert re.findall(r' id="(\w+)" hidden', status) == ["failed", "stopped"]
    assert re.findall(r"<noscript><p>(.*?)</p></noscript>", status) == [
        "GraphiQL needs JavaScript. The API answers without it: send a query to this address, as "
        "POST, in JSON."
    ]
    assert re.search(
        r'<noscript><link rel="stylesheet" href="[^"]+/no_script.css" integrity=', html
    )
    assert '<div id="graphiql" aria-busy="true"' in rest


def test_the_notice_is_text(packages):
    assert (
        '<p id="banner" role="note">1 &lt; 2</p>'
        in graphiql_page.build_page("1 < 2", packages).html
    )
    assert 'role="note"' not in graphiql_page.build_page(packages=packages).html


def test_tabs_are_our_documents(packages):
    """
    All documents have a tab, the one for the newest Monday first; those of the pages have none.
    """
    files = sorted((HOUSE / "graphql" / "operations").glob("*.graphql"))
    tabs = json.loads(
        unescape(
            re.findall(r'data-documents="(.*?)"', graphiql_page.build_page(packages=packages).html)[
                0
            ]
        )
    )
    assert tabs == {file.stem: file.read_text() for file in files}
    assert next(iter(tabs)) == "LatestBatch"
    assert not tabs.keys() & OWN_DOCUMENTS.keys()
    assert (
        set(re.findall(r"^    ([A-Z]\w+): \{", (FOLDER / "start.js").read_text(), re.MULTILINE))
        == tabs.keys()
    )


async def test_files_are_cached_for_a_year(packages):
    """Their addresses change with their content, and each has its type."""
    made = graphiql_page.build_page(packages=packages)
    async with AsyncTestClient(
        Litestar([graphiql_page.route(made.files)], openapi_config=None, logging_config=None)
    ) as client:
        for address in addresses(made):
            response = await client.get(address)
            assert response.content == made.files[address]
            assert response.headers["content-type"].split(";")[0] in ("text/css", "text/javascript")
            assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        for wrong in (
            "page.css",
            "0/page.css",
            "../page.html",
            "%2e%2e/page.html",
            "//etc/passwd",
            "",
        ):
            assert (await client.get(f"/graphql/files/{wrong}")).status_code == 404


def test_versions_are_those_that_npm_brings():
    """The page, the package's list and its lock agree."""
    dependencies = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    locked = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert {name.split("/")[0] for name in PACKAGE_FILES} == {
        f"{name}@{version}" for name, version in dependencies.items()
    }
    assert dependencies == {
        name: locked[f"node_modules/{name}"]["version"] for name in dependencies
    }


def test_is_there_where_it_is_installed(tmp_path):
    """The wheel carries the page, its documents, and the packages' files if they are there."""
    built = tmp_path / "built"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built]
    subprocess.run(command, cwd=HOUSE, check=True, capture_output=True)
    zipfile.ZipFile(next(built.iterdir())).extractall(tmp_path / "site")
    program = (
        "import json; from api import graphiql_page as page; p = page.build_page(); "
        "print(json.dumps([page.__file__, *sorted(p.files)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
    )
    file, *files = json.loads(done.stdout)
    assert Path(file).parents[1] == tmp_path / "site"
    assert files == sorted(graphiql_page.build_page().files)
    inside = tmp_path / "site" / "api" / "operations"
    assert {file.stem for file in inside.glob("*.graphql")} == documents().keys()
    assert {file.stem for file in inside.glob("pages/*.graphql")} == OWN_DOCUMENTS.keys()
