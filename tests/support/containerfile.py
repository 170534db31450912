"""Reads the instructions of the Containerfile by stage, without an engine."""

import json
import re
from pathlib import Path
from typing import NamedTuple

CONTAINERFILE = Path(__file__).parents[2] / "Containerfile"


class Instruction(NamedTuple):
    """One instruction, with its lines joined."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage, FROM first."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = filter(None, re.sub(r"\\\n\s*", "", text).splitlines())
    result: list[list[Instruction]] = []
    for name, _, rest in (line.partition(" ") for line in lines):
        if name == "FROM":
            result.append([])
        result[-1].append(Instruction(name, rest.strip()))
    return result


def last(name: str) -> str:
    """Return the text of the last such instruction of the final stage, or nothing."""
    return ([one.text for one in stages()[-1] if one.name == name] or [""])[-1]


def words(name: str) -> list[str]:
    """
    Return the words of the last such instruction of the final stage, also if it is written as a
    list.
    """
    text = last(name)
    return json.loads(text) if text.startswith("[") else text.split()


def environment() -> dict[str, str]:
    """Return the variables that the final stage sets for the service."""
    return dict(
        pair.split("=", 1) for one in stages()[-1] if one.name == "ENV" for pair in one.text.split()
    )
