"""Reads from a document's text what it names: commands, targets, settings, links and files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from app.commands.cli import group

HOUSE = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# Ends where a shell's word of another kind begins, or a sentence goes on.
_COMMAND = re.compile(r"(?<![\w/=-])alpha-monday((?: [^\s`'\"|;&()<>#,]+)+)")
_PATH = re.compile(r"(?:[\w.-]+/)*[\w-]+\.(?:lock|md|mjs|py|sql|toml|yml)")


class Command(NamedTuple):
    """A command in a document: the command itself, and the words after its name."""

    words: str
    command: click.Command
    rest: list[str]


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, and each text between backticks, on one line each."""
    for block in _BLOCK.findall(text):
        yield from block.splitlines()[1:-1]
    for span in re.findall(r"`([^`]+)`", _BLOCK.sub("", text)):
        yield " ".join(span.split())


def commands(text: str) -> Iterator[Command]:
    """Yield every `alpha-monday ...`; fail if there is no such command."""
    for words in (words.split() for line in code_lines(text) for words in _COMMAND.findall(line)):
        command: click.Command = group
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            if rest[0] not in command.commands:
                assert command.invoke_without_command, f"alpha-monday {' '.join(words)}"
                break
            command = command.commands[rest.pop(0)]
        yield Command(f"alpha-monday {' '.join(words)}", command, rest)


def unaccepted_argument(mention: Command) -> str | None:
    """Return an argument that the command does not accept, or None."""
    if mention.command.context_settings.get("ignore_unknown_options"):
        return None
    options = {
        name: one
        for one in mention.command.params
        if isinstance(one, click.Option)
        for name in one.opts
    }
    room = [one.nargs for one in mention.command.params if isinstance(one, click.Argument)]
    argument_count, rest = 0, iter(mention.rest)
    for word in rest:
        if not word.startswith("--") or word == "--":
            argument_count += 1
        elif word == "--help":
            continue
        elif word not in options:
            return word
        elif not options[word].is_flag:
            next(rest, None)
    return "too many arguments" if argument_count > sum(room) and -1 not in room else None


def targets(text: str) -> set[str]:
    """Return every target of `make` that a document names."""
    return set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))


def capital_words(text: str) -> set[str]:
    """Return every word in capitals with an underscore: settings, codes and reasons."""
    return set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", text))


def files(text: str) -> set[str]:
    """Return the code spans that look like the path of a file of ours."""
    return {span for span in code_lines(_BLOCK.sub("", text)) if _PATH.fullmatch(span)}


def links(text: str) -> Iterator[tuple[str, str]]:
    """Yield every link into the repository, as a file and an anchor; either may be empty."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", _BLOCK.sub("", text)):
        file, _, anchor = link.partition("#")
        yield file, anchor


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
