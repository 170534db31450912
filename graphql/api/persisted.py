"""
The documents of `graphql/operations`: a client may name one by the SHA-256 of its file instead of sending it.

Nothing that clients send is ever added. One that offers to register a document (as Apollo's do) gets its answer.
"""

from hashlib import sha256
from pathlib import Path

from api.fields import refusal

_INSIDE = Path(__file__).parent / "operations"  # where the wheel has them
FOLDER = _INSIDE if _INSIDE.exists() else Path(__file__).parents[1] / "operations"


def hash_of(text: str) -> str:
    """Return the SHA-256 of a document, in hex: what `sha256sum` says of its file."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


# Read once, for all who ask or show them, by the name of the file and of its operation.
BY_NAME = {file.stem: file.read_text("utf-8") for file in sorted(FOLDER.glob("*.graphql"))}
DOCUMENTS = {hash_of(text): text for text in BY_NAME.values()}
# A client that was built for an earlier version of a document still asks for it by the hash of that version.
_FORMER_FILES = (FOLDER.parent / "former_operations").glob("*.graphql")
FORMER = {hash_of(text): text for text in (file.read_text("utf-8") for file in _FORMER_FILES)}


def document(query: str | None, name: str | None) -> str:
    """Return the document that was sent, or that `name` is the hash of."""
    if query is None and name is None:
        raise refusal("BAD_REQUEST", "That is no GraphQL request: it has no `query`.")
    if query is None:
        sha256_hash = str(name).lower()
        if found := DOCUMENTS.get(sha256_hash) or FORMER.get(sha256_hash):
            return found
        # Apollo's clients wait for exactly this, and send the document then.
        raise refusal("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
    if name is not None and hash_of(query) != name.lower():
        raise refusal("BAD_REQUEST", "`sha256Hash` is not the hash of `query`.")
    return query
