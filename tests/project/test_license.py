"""The licence is part of the repository, the wheel, the image and the citation."""

import subprocess
import sys
import tomllib
import zipfile

import yaml
from containerfile import last, stages
from document_text import HOUSE

PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((HOUSE / "CITATION.cff").read_text())
LICENSE = (HOUSE / "LICENSE").read_text()

# The keys of the Citation File Format 1.2.0.
REQUIRED = {"authors", "cff-version", "message", "title"}
OPTIONAL = {
    "abstract",
    "commit",
    "contact",
    "date-released",
    "doi",
    "identifiers",
    "keywords",
    "license",
    "license-url",
    "preferred-citation",
    "references",
    "repository",
    "repository-artifact",
    "repository-code",
    "type",
    "url",
    "version",
}


def test_the_wheel_carries_the_licence(tmp_path):
    """A wheel names MIT and the author, and contains the text of LICENSE."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=HOUSE, capture_output=True, check=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        folder = f"alpha_monday-{PROJECT['version']}.dist-info"
        assert wheel.read(f"{folder}/licenses/LICENSE").decode() == LICENSE
        metadata = wheel.read(f"{folder}/METADATA").decode().splitlines()
    assert {
        "License-Expression: MIT",
        "License-File: LICENSE",
        "Author: Alpha Monday contributors",
    } <= set(metadata)
    assert f"Project-URL: Source, {PROJECT['urls']['Source']}" in metadata


def test_the_licence_is_mit():
    """LICENSE has its title, the holder and the year."""
    assert LICENSE.startswith("MIT License\n\nCopyright (c) 2026 Alpha Monday contributors\n")


def test_the_image_carries_the_licence():
    """The image's wheel is built with LICENSE, and its label names the licence."""
    copied = {
        source for one in stages()[1] if one.name == "COPY" for source in one.text.split()[:-1]
    }
    assert "LICENSE" in copied
    assert 'org.opencontainers.image.licenses="MIT"' in last("LABEL")


def test_the_citation_is_of_this_version():
    """
    CITATION.cff has the keys of its format, and pyproject.toml's version, licence and address.
    """
    assert CITATION["cff-version"] == "1.2.0"
    assert REQUIRED <= set(CITATION) <= REQUIRED | OPTIONAL
    assert CITATION["authors"] == PROJECT["authors"]
    assert CITATION["type"] == "software"
    assert (CITATION["version"], CITATION["license"]) == (PROJECT["version"], PROJECT["license"])
    assert CITATION["repository-code"] == PROJECT["urls"]["Source"]
