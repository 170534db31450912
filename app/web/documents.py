"""
Documents of pages, feed, chart and exports: files of `graphql/operations`, with more fields.

A persisted document never changes, because clients name it by its hash. So a field that only a page
needs is added here, to the text that the page sends to the engine.
"""

import re

from api.persisted import DOCUMENTS_BY_NAME


def extended(name: str, **replacements: str) -> str:
    """
    Return the document of a file with some of its words replaced.

    Each keyword is a word that the document has exactly once, and its value the text in its place.
    Raises ValueError if the document does not have the word once.
    """
    document = DOCUMENTS_BY_NAME[name]
    for word, text in replacements.items():
        document, count = re.subn(rf"\b{word}\b", text, document)
        if count != 1:
            raise ValueError(f"The document {name} has `{word}` {count} times, not once.")
    return document
