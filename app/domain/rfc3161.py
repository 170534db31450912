"""
Timestamps of RFC 3161: the request for one, and the check of the response.

A time-stamping authority signs a hash together with the time. What is stamped is the entry of the
journal, and not its hash: `previous`, a line feed and `content`, hashed with SHA-256. So the hash
in the timestamp, its message imprint, is the hash of the journal's entry.

`rfc3161-client` parses a response. It verifies the signature, and with OpenSSL the chain of
certificates at the time of the timestamp. It does not check everything that RFC 3161 (section 2.2
and 2.4.2) requires, so this module also checks:

- The algorithm of the message imprint. The library compares the digest alone.
- That exactly one certificate is the signer's, and that the signed attributes name it by its hash
  (RFC 5816). Otherwise another certificate of the same key could take its place.
- That the signature is of a hash of the SHA-2 family. Otherwise two timestamps could have one
  signature.
- That the signed attributes state the kind of the content, and each attribute that is checked only
  once (RFC 5652, section 11). Otherwise a signature of another content could pass for a timestamp.
- That no key of the chain is so short that its signatures can be forged.

`openssl ts -verify` makes the same checks, except for the last three, and two more: if a timestamp
names the authority, or the issuer of its certificate, OpenSSL compares the name. Whether a
certificate was revoked is not checked.

The library is imported at the first request or check: it takes 70 ms and 18 MB.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from app.domain import der
from app.errors import ConfigurationError, UnusableStamp

if TYPE_CHECKING:  # importing the library takes 70 ms
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampResponse, TimeStampTokenInfo

# In bytes. Responses of three public authorities had 1,271 bytes (sigstore, one certificate of an
# elliptic curve), 4,775 bytes (IdenTrust) and 5,504 bytes (FreeTSA, two certificates of RSA with
# 4,096 bits). Five more certificates of FreeTSA's size still fit.
MAX_RESPONSE_BYTES = 16_000

# How far the time of a new timestamp may be from our own clock. An authority whose key was stolen,
# or whose certificate has expired, could otherwise stamp any time in the past.
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)

# The greatest accuracy that we store, in seconds. With a greater one, a timestamp would not even
# say on which day it was made.
_MAX_ACCURACY_SECONDS = 86_400
# The greatest number of certificates in a response, and of certificates in a chain.
_MAX_CERTIFICATES = 10

_SHA256 = "2.16.840.1.101.3.4.2.1"
# The functions of the hashes that a signature may be of, by the encoded object identifier.
_SHA2: MappingProxyType[bytes, Callable[[bytes], Any]] = MappingProxyType(
    {
        der.object_id(_SHA256): hashlib.sha256,
        der.object_id("2.16.840.1.101.3.4.2.2"): hashlib.sha384,
        der.object_id("2.16.840.1.101.3.4.2.3"): hashlib.sha512,
    }
)
# The least number of bits of a key (NIST SP 800-131A): of RSA or DSA, and of an elliptic curve. A
# key of RSA with 512 bits can be computed in hours.
_MIN_KEY_BITS = 2048
_MIN_CURVE_BITS = 224

# The kind of the content of a timestamp: a TSTInfo.
_TST_INFO = der.object_id("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = der.object_id("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = der.object_id("1.2.840.113549.1.9.4")
# The signed attributes that name the signer's certificate: the first by its SHA-1 (RFC 2634), the
# second by any hash (RFC 5816).
_SIGNING_CERTIFICATE = der.object_id("1.2.840.113549.1.9.16.2.12")
_SIGNING_CERTIFICATE_V2 = der.object_id("1.2.840.113549.1.9.16.2.47")
# A signature has each of these attributes at most once, with one value.
_SINGLE_ATTRIBUTES = (
    _CONTENT_TYPE,
    _MESSAGE_DIGEST,
    _SIGNING_CERTIFICATE,
    _SIGNING_CERTIFICATE_V2,
)

# Each part of a PEM file begins with the first of these. The second one ends the first line of a
# private key.
_PEM_BEGIN = b"-----BEGIN"
_PRIVATE_KEY = b"PRIVATE KEY-----"

# Context-specific tags: of a constructed element 0 (explicit content, certificates, signed
# attributes), and of milliseconds and microseconds in an accuracy.
_CONTEXT_0 = 0xA0
_MILLIS = 0x80
_MICROS = 0x81

# The statuses of a response, by their numbers. With the first two, it contains a timestamp.
_STATUSES = (
    "granted",
    "granted with modifications",
    "rejection",
    "waiting",
    "revocation warning",
    "revocation notification",
)
_GRANTED = (0, 1)


class StampRequest(Struct, frozen=True, kw_only=True):
    """A request for a timestamp, as it is sent. `data_hash` is the hash to be stamped, in hex."""

    encoded: bytes
    nonce: int
    data_hash: str


class Stamp(Struct, frozen=True, kw_only=True):
    """
    What a valid response says.

    At `gen_time` (UTC), give or take `accuracy_seconds`, the authority had the hash.
    `accuracy_seconds` is 0 if the authority states no accuracy. `chain_pem` has the certificates
    that the signature depends on: the signer's first, the pinned root last. `root_sha256` is the
    fingerprint of that root. `nonce` is the number that the request had; None if the timestamp has
    none.
    """

    gen_time: datetime
    accuracy_seconds: Decimal
    chain_pem: str
    root_sha256: str
    nonce: int | None


class _Flaw(Exception):
    """What is wrong with a response: the end of a sentence that begins with the authority."""


def make_request(data: bytes) -> StampRequest:
    """
    Return a request to stamp `data`, which must not be empty.

    The request asks for the SHA-256 of `data`, for the certificates of the authority, and that the
    response repeats a random nonce of 64 bits.
    """
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    builder = TimestampRequestBuilder()
    # Without the algorithm, the library would hash with SHA-512.
    builder = builder.data(data).hash_algorithm(HashAlgorithm.SHA256)
    request = builder.cert_request(cert_request=True).nonce(nonce=True).build()
    assert request.nonce is not None
    return StampRequest(
        encoded=request.as_bytes(),
        nonce=request.nonce,
        data_hash=request.message_imprint.message.hex(),
    )


def read_roots(pem: bytes, subject: str = "The file of TIMESTAMP_ROOTS") -> list["Certificate"]:
    """
    Return the pinned certificates of a PEM file, each once.

    Only a root (a certificate that signs itself) ends a chain. Other certificates of the file
    complete the chains of an authority that does not send them. Lines between the certificates are
    ignored. `subject` says in error texts where `pem` comes from.

    Raises ConfigurationError if the file contains no root, a private key, or anything else in PEM
    form that is no whole certificate.
    """
    from cryptography.x509 import load_pem_x509_certificates

    if _PRIVATE_KEY in pem:
        raise ConfigurationError(
            f"{subject} contains a private key: put certificates into it, and nothing secret."
        )
    try:
        certificates = load_pem_x509_certificates(pem)
        has_root = any(map(_is_root, certificates))
    except Exception:
        raise ConfigurationError(
            f"{subject} cannot be read: it must have certificates in PEM form."
        ) from None
    # The library ignores everything else, such as a certificate whose end was cut off.
    if len(certificates) != pem.count(_PEM_BEGIN):
        raise ConfigurationError(
            f"{subject} cannot be read: a part of it is no whole certificate in PEM form."
        )
    if not has_root:
        raise ConfigurationError(
            f"{subject} has no root: a certificate that is signed with its own key."
        )
    return list(dict.fromkeys(certificates))


def fingerprint(certificate: "Certificate") -> str:
    """Return the SHA-256 of a certificate's DER form, in lower-case hex."""
    return hashlib.sha256(_to_der(certificate)).hexdigest()


def root_fingerprints(certificates: Iterable["Certificate"]) -> tuple[str, ...]:
    """
    Return the fingerprints of the roots among pinned certificates, each once, in ascending order.

    The journal states them. The other pinned certificates are left out: no chain ends with them.
    """
    return tuple(sorted({fingerprint(one) for one in certificates if _is_root(one)}))


def without_roots(certificates: Iterable["Certificate"]) -> list["Certificate"]:
    """Return the certificates that can complete a chain, and cannot end one."""
    return [one for one in certificates if not _is_root(one)]


def verify_response(
    response: bytes,
    *,
    data_hash: str,
    nonce: int | None,
    roots: Sequence["Certificate"],
    authority: str = "",
) -> Stamp:
    """
    Return what `response` says, if it is a valid timestamp of `data_hash`.

    `data_hash` is the SHA-256 of the stamped data in hex: the hash of a journal's entry. `nonce` is
    that of the request; None if it is not known, then any nonce is accepted. `roots` are the pinned
    certificates (`read_roots`). `authority` names the authority in error texts.

    `gen_time` is not compared with any clock, so that a timestamp can be verified years later. A
    client that has just received a timestamp compares it with its own clock.

    Raises UnusableStamp for every response that is no such timestamp, whatever its bytes are.
    """
    digest = bytes.fromhex(data_hash)
    subject = f"The time-stamping authority {authority}".rstrip()
    unreadable = f"{subject} answered with bytes that are no timestamp."
    try:
        return _verify(response, digest=digest, nonce=nonce, roots=roots)
    except _Flaw as flaw:
        raise UnusableStamp(f"{subject} {flaw}.") from None
    except Exception:
        # The libraries raise many classes of errors for bytes that they cannot read.
        raise UnusableStamp(unreadable) from None
    except BaseException as error:
        # A failed assertion in a library's Rust code is not an Exception in Python.
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise UnusableStamp(unreadable) from None


def _verify(
    response: bytes, *, digest: bytes, nonce: int | None, roots: Sequence["Certificate"]
) -> Stamp:
    granted, info = _read_granted(response)
    _check_content(info, digest=digest, nonce=nonce)
    signer_info = _signer_info(granted)
    gen_time = _gen_time(granted)
    accuracy_seconds = _accuracy_seconds(granted)

    certificates = _sent_certificates(granted)
    signer = _signer(granted, certificates)
    _check_validity(signer, gen_time)
    usable = [one for one in (*certificates, *roots) if _is_valid_at(one, gen_time)]
    chain = _chain(signer, usable, roots=roots)
    _check_keys(chain)
    _check_signed_attributes(signer_info, chain)
    _check_signature(granted, digest=digest, chain=chain, roots=roots)
    return Stamp(
        gen_time=gen_time,
        accuracy_seconds=accuracy_seconds,
        chain_pem="".join(map(_to_pem, chain)),
        root_sha256=fingerprint(chain[-1]),
        nonce=info.nonce,
    )


# The content of a timestamp


def _read_granted(response: bytes) -> tuple["TimeStampResponse", "TimeStampTokenInfo"]:
    """Return the response with the status "granted", and the content of its timestamp."""
    from rfc3161_client import decode_timestamp_response

    if len(response) > MAX_RESPONSE_BYTES:
        raise _Flaw(f"answered with more than {MAX_RESPONSE_BYTES:,} bytes")
    decoded = decode_timestamp_response(_sort_certificates(response))
    if decoded.status not in _GRANTED:
        raise _Flaw(
            f"did not grant the timestamp: it answered with {_describe_status(decoded.status)}"
        )
    stamp = decoded.time_stamp_token()
    if not stamp:
        raise _Flaw("granted the timestamp, but did not send it")
    # The library refuses the status "granted with modifications". The status is not signed, and
    # everything that the authority could modify is checked below.
    granted = decode_timestamp_response(der.sequence(der.sequence(der.integer(0)), stamp))
    return granted, granted.tst_info


def _sort_certificates(response: bytes) -> bytes:
    """
    Return a response with its certificates in the order of DER.

    The library refuses any other order, but some authorities send the signer's certificate first,
    among them all that run `openssl ts`. The certificates are not signed, so their order is free.
    """
    (answer,) = der.elements(response)
    _, *tokens = answer.children()
    if not tokens:
        return response
    _, explicit = tokens[0].children()
    (signed_data,) = explicit.children()
    for part in signed_data.children():
        if part.tag == _CONTEXT_0:
            certificates = sorted(one.encoded for one in part.children())
            # Only this part is replaced, so that the library checks all other bytes as they are.
            return response.replace(part.content, b"".join(certificates), 1)
    return response


def _describe_status(status: int) -> str:
    if status < len(_STATUSES):
        return f'the status {status}, "{_STATUSES[status]}"'
    return "an unknown status"


def _check_content(info: "TimeStampTokenInfo", *, digest: bytes, nonce: int | None) -> None:
    imprint = info.message_imprint
    if info.version != 1 or info.policy is None:
        raise _Flaw("sent a timestamp of an unknown version")
    if imprint.hash_algorithm.dotted_string != _SHA256:
        raise _Flaw("stamped a hash that is no SHA-256")
    if imprint.message != digest:
        raise _Flaw("stamped another hash than the requested one")
    if nonce is not None and info.nonce != nonce:
        raise _Flaw("sent a timestamp for another request: its nonce is another one")


def _signed_data(granted: "TimeStampResponse") -> list[der.Element]:
    """Return the parts of the timestamp's SignedData (RFC 5652, section 5.1)."""
    (content_info,) = der.elements(granted.time_stamp_token())
    _, explicit = content_info.children()
    (signed_data,) = explicit.children()
    return signed_data.children()


def _content(granted: "TimeStampResponse") -> list[der.Element]:
    """Return the parts of the timestamp's TSTInfo (RFC 3161, section 2.4.2), from `gen_time` on."""
    encapsulated = _signed_data(granted)[2]
    _, explicit = encapsulated.children()
    (octets,) = explicit.children()
    (info,) = octets.children()
    parts = info.children()
    while parts[0].tag != der.GENERALIZED_TIME:
        del parts[0]
    return parts


def _gen_time(granted: "TimeStampResponse") -> datetime:
    """Return the time of a timestamp with its fraction of a second, which the library omits."""
    text = _content(granted)[0].content.decode("ascii")
    whole, _, fraction = text.removesuffix("Z").partition(".")
    # A part of a microsecond is rounded up, so that the timestamp never seems earlier than it is.
    digits = fraction.ljust(6, "0")
    microseconds = int(digits[:6])
    if digits[6:].strip("0"):
        microseconds += 1
    seconds = datetime.strptime(whole, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return seconds + timedelta(microseconds=microseconds)


def _accuracy_seconds(granted: "TimeStampResponse") -> Decimal:
    following = _content(granted)[1:2]
    if not following or following[0].tag != der.SEQUENCE:
        return Decimal(0)
    # The units, in microseconds. Whole microseconds keep the sum exact.
    units = {der.INTEGER: 1_000_000, _MILLIS: 1000, _MICROS: 1}
    microseconds = sum(
        int.from_bytes(part.content) * units[part.tag] for part in following[0].children()
    )
    if microseconds > _MAX_ACCURACY_SECONDS * 1_000_000:
        raise _Flaw("sent a timestamp whose time may be wrong by more than a day")
    return Decimal(microseconds) / 1_000_000


# The signature of a timestamp


def _sent_certificates(granted: "TimeStampResponse") -> list["Certificate"]:
    """Return the certificates of a response; their order has no meaning."""
    from cryptography.x509 import load_der_x509_certificate

    sent = granted.signed_data.certificates
    if len(sent) > _MAX_CERTIFICATES:
        raise _Flaw(f"sent more than {_MAX_CERTIFICATES} certificates")
    return [load_der_x509_certificate(one) for one in sorted(sent)]


def _signer_info(granted: "TimeStampResponse") -> der.Element:
    (signer_info, *others) = _signed_data(granted)[-1].children()
    if others:
        raise _Flaw("sent a timestamp with several signatures")
    return signer_info


def _signer(granted: "TimeStampResponse", certificates: Sequence["Certificate"]) -> "Certificate":
    """Return the certificate whose issuer and number are those of the signature."""
    (signer_info,) = granted.signed_data.signer_infos
    found = [
        one
        for one in certificates
        if (one.issuer, one.serial_number) == (signer_info.issuer, signer_info.serial_number)
    ]
    if not found:
        raise _Flaw("did not send the certificate of its signature")
    if len(found) > 1:
        raise _Flaw("sent several certificates for one signature")
    return found[0]


def _is_valid_at(certificate: "Certificate", time: datetime) -> bool:
    return certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc


def _check_validity(signer: "Certificate", gen_time: datetime) -> None:
    if not _is_valid_at(signer, gen_time):
        raise _Flaw("signed with a certificate that was not valid at the time of the timestamp")


def _chain(
    signer: "Certificate", certificates: Sequence["Certificate"], roots: Sequence["Certificate"]
) -> list["Certificate"]:
    """
    Return certificates from the signer's to a pinned root; each is issued by the next.

    A certificate that led to no root is not tried again on another path: certificates that sign
    each other would have a great many paths.
    """
    tried: list[Certificate] = []

    def extend(chain: list["Certificate"]) -> list["Certificate"]:
        newest = chain[-1]
        if newest in roots and _is_root(newest):
            return chain
        if len(chain) == _MAX_CERTIFICATES:
            return []
        for candidate in certificates:
            if candidate in tried or not _is_issued_by(newest, candidate):
                continue
            tried.append(candidate)
            if found := extend([*chain, candidate]):
                return found
        return []

    chain = extend([signer])
    if not chain:
        raise _Flaw(
            "signed with a certificate that leads to no pinned root (TIMESTAMP_ROOTS or "
            "--timestamp-root) that was valid at the time of the timestamp"
        )
    return chain


def _is_issued_by(certificate: "Certificate", issuer: "Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    # The names differ, the signature is wrong, or the kind of key is unknown.
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_root(certificate: "Certificate") -> bool:
    return _is_issued_by(certificate, certificate)


def _check_keys(chain: Sequence["Certificate"]) -> None:
    """Raise _Flaw if a key of the chain is too short."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    for certificate in chain:
        key = certificate.public_key()
        least = _MIN_KEY_BITS
        if isinstance(key, EllipticCurvePublicKey):
            least = _MIN_CURVE_BITS
        # Keys of one fixed length, such as those of Ed25519, state none, and are long enough.
        bits = getattr(key, "key_size", least)
        if bits < least:
            raise _Flaw(f"uses a certificate whose key has {bits} bits, and not {least} or more")


def _check_signed_attributes(signer_info: der.Element, chain: Sequence["Certificate"]) -> None:
    """
    Raise _Flaw unless the signature is of SHA-2 and of a timestamp, and names its certificate.

    The parts of a signature are its version, the issuer and number of the certificate, the
    algorithm of the hash, and the signed attributes (RFC 5652, section 5.3).
    """
    parts = signer_info.children()
    algorithm = parts[2].children()[0].encoded
    if algorithm not in _SHA2:
        raise _Flaw("signed a hash that is not of the SHA-2 family")
    signed = [one for one in parts if one.tag == _CONTEXT_0]
    if not signed:
        raise _Flaw("signed no attributes, so the signature does not name its certificate")

    values = _single_values(signed[0])
    content_type = values.get(_CONTENT_TYPE)
    if content_type is None or content_type.encoded != _TST_INFO:
        raise _Flaw("sent a signature that is not of a timestamp: its content type is another one")
    kinds = [one for one in (_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2) if one in values]
    if not kinds:
        raise _Flaw("sent a signature that does not name its certificate")
    encoded = [_to_der(one) for one in chain]
    for kind in kinds:
        identifiers = values[kind].children()[0].children()
        first, *others = [_has_hash(one, kind, encoded) for one in identifiers]
        # The first one is the signer's, and the others are those of its issuers.
        if first != 0 or None in others or 0 in others:
            raise _Flaw("signed with another certificate than the one that the signature names")


def _single_values(attributes: der.Element) -> dict[bytes, der.Element]:
    """Return the values of _SINGLE_ATTRIBUTES by their kind. Raise _Flaw if one is there twice."""
    values: dict[bytes, der.Element] = {}
    for attribute in attributes.children():
        kind, content = attribute.children()
        if kind.encoded not in _SINGLE_ATTRIBUTES:
            continue
        if kind.encoded in values:
            raise _Flaw("signed an attribute twice")
        (values[kind.encoded],) = content.children()
    return values


def _has_hash(identifier: der.Element, kind: bytes, certificates: Collection[bytes]) -> int | None:
    """
    Return the place of the certificate whose hash `identifier` contains, or None.

    `identifier` is an ESSCertID or ESSCertIDv2: an algorithm (only of the second kind, and by
    default SHA-256), the hash, and perhaps the issuer and number of the certificate.
    """
    parts = identifier.children()
    make_hash: Callable[[bytes], Any] | None = hashlib.sha256
    if kind == _SIGNING_CERTIFICATE:
        # The hash only chooses between certificates whose signatures are verified.
        make_hash = hashlib.sha1
    elif parts[0].tag == der.SEQUENCE:
        make_hash = _SHA2.get(parts[0].children()[0].encoded)
        del parts[0]
    for place, certificate in enumerate(certificates):
        if make_hash and make_hash(certificate).digest() == parts[0].content:
            return place
    return None


def _check_signature(
    granted: "TimeStampResponse",
    *,
    digest: bytes,
    chain: Sequence["Certificate"],
    roots: Sequence["Certificate"],
) -> None:
    """
    Raise _Flaw unless the library accepts the signature and the chain at the time of the timestamp.

    It requires a certificate that may sign timestamps and nothing else.
    """
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from rfc3161_client import VerificationError, VerifierBuilder

    try:
        usage = chain[0].extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        usage = ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    if list(usage) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise _Flaw("signed with a certificate that is not for timestamps alone")
    # OpenSSL trusts no certificate that does not sign itself, so the other pinned certificates only
    # complete the chain.
    intermediates = without_roots(roots)
    verifier = VerifierBuilder(roots=[chain[-1]], intermediates=intermediates).build()
    try:
        verifier.verify(granted, digest)
    except VerificationError:
        raise _Flaw("sent a timestamp whose signature or certificates are not valid") from None


def _to_der(certificate: "Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _to_pem(certificate: "Certificate") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()
