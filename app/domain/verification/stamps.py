"""
The check of timestamps against the journal: everything that can be checked without the internet.

A token of an authority is checked completely. A proof of OpenTimestamps is checked up to the Merkle
root of a Bitcoin block: only the block chain itself can say whether that block has this root.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from app.domain import opentimestamps, rfc3161
from app.domain.model import SHA256_PATTERN
from app.domain.opentimestamps import UnusableProof
from app.domain.timestamps import Timestamp, TimestampKind, TimestampStatus
from app.domain.verification.discrepancies import Rule, discrepancy, format_utc
from app.errors import ConfigurationError, Discrepancy, UnusableStamp

if TYPE_CHECKING:  # importing the library takes 70 ms
    from cryptography.x509 import Certificate


class BlockToCompare(Struct, frozen=True):
    """
    A Bitcoin block into which the proof of an entry leads.

    The proof is right if the block at `height` has the Merkle root `merkle_root`, in hex as block
    explorers show it.
    """

    seq: int
    height: int
    merkle_root: str


class StampVerifier:
    """
    Checks the timestamps of a journal, one after another.

    `hashes` has the hash of each entry by its number; the chain was verified before. `roots` are
    the pinned certificates. If they are None, each token is checked with the root of its own chain,
    which proves less: an operator can make such a chain.

    `count`, `tokens`, `roots_used`, `pending` and `blocks` are the results: the number of
    timestamps that were checked, the number of tokens that verify, the number of them for each root
    (by the fingerprint of its certificate), the number of proofs that are not in a block yet, and
    the blocks to compare.
    """

    def __init__(
        self, hashes: Mapping[int, str], roots: Sequence["Certificate"] | None = None
    ) -> None:
        self.hashes = hashes
        self.roots = roots
        self._pinned = set(rfc3161.root_fingerprints(roots or ()))
        self.count = 0
        self.tokens = 0
        self.roots_used: Counter[str] = Counter()
        self.blocks: list[BlockToCompare] = []
        self._seen = set[tuple[int, TimestampKind, str, TimestampStatus]]()
        # The entries and the calendars of the pending proofs, and of the complete ones. A complete
        # proof does not replace the pending one: both stay in the record, in any order.
        self._promised = set[tuple[int, str]]()
        self._complete = set[tuple[int, str]]()

    @property
    def pending(self) -> int:
        """Return the number of pending proofs that have no complete one beside them."""
        return len(self._promised - self._complete)

    def check(self, stamp: Timestamp) -> None:
        """Check one timestamp. Raise Discrepancy if it does not fit."""
        known = self.hashes.get(stamp.seq)
        if known is None:
            raise _misfit(stamp, "is about an entry that the journal does not have")
        if known != stamp.hash:
            raise _misfit(stamp, f"is about the hash {stamp.hash}, but the entry has {known}")
        # The entries that an API adds while it is read were not verified.
        if not re.fullmatch(SHA256_PATTERN, stamp.hash):
            raise _misfit(stamp, "is about a hash that is not 64 lower-case hexadecimal digits")
        if not stamp.authority:
            raise _misfit(stamp, "does not name its service")
        key = (stamp.seq, stamp.kind, stamp.authority, stamp.status)
        if key in self._seen:
            raise _misfit(stamp, f"is in the record twice as {stamp.status}")
        self._seen.add(key)
        if stamp.kind == TimestampKind.RFC3161:
            self._check_token(stamp)
        else:
            self._check_proof(stamp)
        self.count += 1

    def _check_token(self, stamp: Timestamp) -> None:
        if stamp.block_height is not None:
            raise _misfit(stamp, f"names block {stamp.block_height}, which no token does")
        try:
            token = self._verify_token(stamp)
        except (UnusableStamp, ConfigurationError) as error:
            raise _misfit(stamp, f"does not verify. {error}") from None
        if token.gen_time != stamp.at:
            raise _misfit(
                stamp,
                f"says {format_utc(stamp.at)}, but its proof says {format_utc(token.gen_time)}",
            )
        if token.accuracy_seconds != stamp.accuracy_seconds:
            raise _misfit(
                stamp,
                f"has the accuracy {stamp.accuracy_seconds}, but its proof has "
                f"{token.accuracy_seconds}",
            )
        if stamp.status != TimestampStatus.CONFIRMED:
            raise _misfit(stamp, f"is {stamp.status}, but its proof is complete")
        if stamp.received_at < token.gen_time - rfc3161.MAX_CLOCK_DIFFERENCE:
            raise _misfit(
                stamp,
                f"says that it was received at {format_utc(stamp.received_at)}, before its time, "
                f"{format_utc(token.gen_time)}",
            )
        self.tokens += 1
        self.roots_used[token.root_sha256] += 1

    def _verify_token(self, stamp: Timestamp) -> rfc3161.Stamp:
        """
        Return what a token says, by the pinned roots, or by its own chain if there are none.

        The chain is checked in both cases, because the service offers it to readers as a file. It
        may have certificates that the token lacks: the file of TIMESTAMP_ROOTS can complete it.
        Raises UnusableStamp or ConfigurationError for a token that does not verify, or whose chain
        is another one.
        """
        # The JSON of an API can contain a lone surrogate, which has no form in UTF-8.
        pem = (stamp.chain or "").encode(errors="replace")
        chain = rfc3161.read_roots(pem, "The chain of its certificates")
        token = _verify(stamp, chain)
        if token.chain_pem != stamp.chain:
            raise UnusableStamp("The chain of its certificates is not the one of its signature.")
        # An API does not show the nonce.
        if stamp.nonce not in (None, str(token.nonce)):
            raise UnusableStamp("It is about another request: its nonce is another one.")
        if self.roots is None or token.root_sha256 in self._pinned:
            return token
        # The chain of the row may end with another root, and yet lead to a pinned one: the root may
        # have been renewed.
        return _verify(stamp, [*self.roots, *rfc3161.without_roots(chain)])

    def _check_proof(self, stamp: Timestamp) -> None:
        if (stamp.accuracy_seconds, stamp.chain, stamp.nonce) != (None, None, None):
            raise _misfit(stamp, "has an accuracy, certificates or a nonce, as only a token has")
        if stamp.at != stamp.received_at:
            raise _misfit(
                stamp,
                f"says {format_utc(stamp.at)}, but it was received at "
                f"{format_utc(stamp.received_at)}",
            )
        try:
            proof = opentimestamps.parse(stamp.proof)
        except UnusableProof as error:
            raise _misfit(stamp, f"cannot be read. {error}") from None
        if proof.digest.hex() != stamp.hash:
            raise _misfit(stamp, f"proves another hash: {proof.digest.hex()}")
        if stamp.status == TimestampStatus.PENDING:
            if not any(_is_address(one.uri or "") for one in proof.pending):
                raise _misfit(stamp, "is pending, but names no calendar")
            if proof.block is not None:
                raise _misfit(stamp, f"is pending, but leads into block {proof.block.height}")
            if stamp.block_height is not None:
                raise _misfit(stamp, f"is pending, but names block {stamp.block_height}")
            self._promised.add((stamp.seq, stamp.authority))
            return
        block = proof.block
        if block is None or block.height != stamp.block_height:
            raise _misfit(stamp, f"does not lead into block {stamp.block_height}")
        assert block.height is not None
        self._complete.add((stamp.seq, stamp.authority))
        self.blocks.append(BlockToCompare(stamp.seq, block.height, str(block.merkle_root)))


def _verify(stamp: Timestamp, roots: Sequence["Certificate"]) -> rfc3161.Stamp:
    return rfc3161.verify_response(stamp.proof, data_hash=stamp.hash, nonce=None, roots=roots)


def _is_address(uri: str) -> bool:
    return uri.startswith(("https://", "http://"))


def _misfit(stamp: Timestamp, text: str) -> Discrepancy:
    name = "token" if stamp.kind == TimestampKind.RFC3161 else "proof of OpenTimestamps"
    sentence = f"the {name} of {stamp.authority} for entry {stamp.seq} {text.rstrip('.')}."
    return discrepancy(Rule.TIMESTAMP, sentence)
