"""
Persisted documents: a client may name a file of `graphql/operations` by the SHA-256 of its text.

The service never stores a document that a client sends. Apollo's clients send a document with its
hash, to register the document for later requests. They get its result, but it is not registered.
"""

from hashlib import sha256
from pathlib import Path

from api.fields import api_error

# The wheel has the documents inside the package; the source tree has them beside it.
_IN_PACKAGE = Path(__file__).parent / "operations"
_IN_SOURCE_TREE = Path(__file__).parents[1] / "operations"
OPERATIONS_FOLDER = _IN_PACKAGE if _IN_PACKAGE.exists() else _IN_SOURCE_TREE


def document_hash(text: str) -> str:
    """Return the SHA-256 of a document in hex, as `sha256sum` prints it for its file."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _read_documents(folder: Path) -> dict[str, str]:
    return {file.stem: file.read_text("utf-8") for file in sorted(folder.glob("*.graphql"))}


# Each file is named after its operation. The files are read once, when the process starts.
PUBLIC_DOCUMENTS = _read_documents(OPERATIONS_FOLDER)
# What only the service itself asks, for its pages, the feed, the charts and the exports. A client
# may name these documents, too.
OWN_DOCUMENTS = _read_documents(OPERATIONS_FOLDER / "pages")
DOCUMENTS_BY_NAME = {**PUBLIC_DOCUMENTS, **OWN_DOCUMENTS}
DOCUMENTS_BY_HASH = {document_hash(text): text for text in DOCUMENTS_BY_NAME.values()}
# A client that was built for an earlier version of a document still sends the hash of that version.
_FORMER_DOCUMENTS = _read_documents(OPERATIONS_FOLDER.parent / "former_operations")
FORMER_DOCUMENTS_BY_HASH = {document_hash(text): text for text in _FORMER_DOCUMENTS.values()}


def resolve_document(query: str | None, name: str | None) -> str:
    """
    Return `query`, the document that was sent, or the persisted document whose hash is `name`.

    Raises PERSISTED_QUERY_NOT_FOUND for an unknown hash. Raises BAD_REQUEST if there is neither a
    document nor a hash, or if `name` is not the hash of `query`.
    """
    if query is None and name is None:
        raise api_error("BAD_REQUEST", "This is not a GraphQL request: it has no `query`.")
    if query is None:
        sha256_hash = str(name).lower()
        document = DOCUMENTS_BY_HASH.get(sha256_hash) or FORMER_DOCUMENTS_BY_HASH.get(sha256_hash)
        if document:
            return document
        # Apollo's clients wait for exactly this message, and send the document then.
        raise api_error("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
    if name is not None and document_hash(query) != name.lower():
        raise api_error("BAD_REQUEST", "`sha256Hash` is not the hash of `query`.")
    return query
