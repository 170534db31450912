"""
A simulated time-stamping authority: it answers requests of RFC 3161 with stamps that verify.

The keys and certificates are made when the authority starts, so no key is stored anywhere. They are
valid from 2020 to 2110, so that a timestamp of any simulated time can be verified. A client gets
the root as a PEM file.

With a seed, the root is the same at each start. The journal states the roots of a rehearsal, so a
rehearsal that is stopped and continued must not get another root: its journal would state a change
of settings that no operator made. Anyone can compute the key of such a root, so it proves nothing.

A timestamp has the form that public authorities use: CMS SignedData with ECDSA on P-256 and
SHA-256, and the signed attribute ESSCertIDv2, without which `openssl ts -verify` refuses it. The
package `cryptography` makes the keys, the certificates and the signatures; it cannot write a
timestamp, so `app/domain/der.py` encodes it. The package is imported when an authority starts,
because a rehearsal without timestamps does not need it.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from app.domain import der

if TYPE_CHECKING:  # see above
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

_VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_VALID_UNTIL = datetime(2110, 1, 1, tzinfo=UTC)
# When the expired certificate ends.
_EXPIRED_AT = datetime(2020, 2, 1, tzinfo=UTC)

# The signers that a timestamp can have: the valid one, and three that a client must refuse.
VALID = "valid"
EXPIRED = "expired"
OTHER_ROOT = "other root"
# Its certificate is for servers, not for timestamps.
WRONG_PURPOSE = "wrong purpose"

# What stamps of this authority state about their accuracy.
ACCURACY = timedelta(seconds=1)

# The name of the policy. RFC 3161 requires one; the arc 2.999 is for examples.
_POLICY = "2.999.3161"
SHA256 = "2.16.840.1.101.3.4.2.1"
SHA512 = "2.16.840.1.101.3.4.2.3"
_ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2"
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_TST_INFO = "1.2.840.113549.1.9.16.1.4"
# Signed attributes.
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"

# The context-specific tag of a constructed element 0: explicit content, certificates, signed
# attributes.
_CONTEXT_0 = 0xA0
# The version of SignedData whose content is no plain data, and that of a SignerInfo.
_CMS_VERSION = bytes.fromhex("020103")
_SIGNER_VERSION = der.integer(1)

GRANTED = 0
REJECTED = 2


class MalformedQuery(ValueError):
    """The body of a request is no request for a timestamp."""


class _Query(NamedTuple):
    """A request for a timestamp: the algorithm (encoded), the digest, and the nonce or None."""

    algorithm: bytes
    digest: bytes
    nonce: int | None


class _Signer(NamedTuple):
    """A key, its certificate, and the certificate of the root that issued it."""

    key: "EllipticCurvePrivateKey"
    certificate: "Certificate"
    root: "Certificate"


class SimulatedAuthority:
    """
    A time-stamping authority with a root, keys and certificates of its own.

    All of them are random. With a `seed`, the root depends on the seed alone.
    """

    def __init__(self, seed: str = "") -> None:
        self._root_key = _make_key(seed)
        self.root = _make_certificate("Simulated root", self._root_key, seed=seed)
        self._stamps = 0

    @property
    def root_pem(self) -> bytes:
        """The certificate of the root in PEM form, for the file of TIMESTAMP_ROOTS."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.root.public_bytes(Encoding.PEM)

    def stamp(
        self,
        query: bytes,
        now: datetime,
        *,
        algorithm: str = "",
        digest: bytes = b"",
        nonce_offset: int | None = 0,
        signer: str = VALID,
        has_certificates: bool = True,
        status: int = GRANTED,
    ) -> bytes:
        """
        Return the response to `query`, with a timestamp of the time `now`, in whole seconds.

        The other parameters make a wrong response: another `algorithm` (dotted) or `digest` than
        the requested one, a nonce that differs by `nonce_offset` (None: no nonce), another
        `signer`, no certificates, or another `status`.

        Raises MalformedQuery.
        """
        wanted = _read_query(query)
        self._stamps += 1
        stamped_algorithm = wanted.algorithm
        if algorithm:
            stamped_algorithm = der.sequence(der.object_id(algorithm), der.encode(der.NULL))
        nonce = b""
        if wanted.nonce is not None and nonce_offset is not None:
            nonce = der.integer(wanted.nonce + nonce_offset)
        hashed = der.encode(der.OCTET_STRING, digest or wanted.digest)
        time = f"{now.astimezone(UTC):%Y%m%d%H%M%SZ}"
        # The parts of a TSTInfo (RFC 3161, section 2.4.2).
        parts = [
            der.integer(1),
            der.object_id(_POLICY),
            der.sequence(stamped_algorithm, hashed),
            der.integer(self._stamps),
            der.encode(der.GENERALIZED_TIME, time.encode()),
            der.sequence(der.integer(int(ACCURACY.total_seconds()))),
            nonce,
        ]
        info = der.sequence(*parts)
        token = _sign(info, self._signers[signer], has_certificates=has_certificates)
        return der.sequence(der.sequence(der.integer(status)), token)

    @cached_property
    def _signers(self) -> dict[str, _Signer]:
        other_key = _make_key()
        other_root = _make_certificate("Another root", other_key)
        return {
            VALID: self._make_signer(),
            EXPIRED: self._make_signer(valid_until=_EXPIRED_AT),
            WRONG_PURPOSE: self._make_signer(is_for_stamps=False),
            OTHER_ROOT: self._make_signer(root_key=other_key, root=other_root),
        }

    def _make_signer(
        self,
        *,
        valid_until: datetime = _VALID_UNTIL,
        is_for_stamps: bool = True,
        root_key: "EllipticCurvePrivateKey | None" = None,
        root: "Certificate | None" = None,
    ) -> _Signer:
        key = _make_key()
        issuer = root or self.root
        certificate = _make_certificate(
            "Simulated time-stamping authority",
            key,
            issuer=issuer,
            issuer_key=root_key or self._root_key,
            valid_until=valid_until,
            is_for_stamps=is_for_stamps,
        )
        return _Signer(key, certificate, issuer)


def reject() -> bytes:
    """Return a response that rejects a request: status 2, a bad request."""
    # The bits of PKIFailureInfo: bit 2 is a bad request, and 5 bits of the byte are unused.
    failure = bytes.fromhex("03020520")
    return der.sequence(der.sequence(der.integer(REJECTED), failure))


def _read_query(query: bytes) -> _Query:
    """Return the parts of a TimeStampReq (RFC 3161, section 2.4.1) that a timestamp depends on."""
    try:
        (request,) = der.elements(query)
        version, imprint, *others = request.children()
        algorithm, digest = imprint.children()
    except ValueError:
        raise MalformedQuery from None
    if version.encoded != der.integer(1) or digest.tag != der.OCTET_STRING:
        raise MalformedQuery
    # Of the others (policy, nonce, certReq, extensions) only the nonce is an integer.
    nonces = [int.from_bytes(one.content) for one in others if one.tag == der.INTEGER]
    return _Query(algorithm.encoded, digest.content, next(iter(nonces), None))


def _sign(info: bytes, signer: _Signer, *, has_certificates: bool) -> bytes:
    """Return the time-stamp token: a ContentInfo with SignedData about `info` (RFC 5652)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    encoded = signer.certificate.public_bytes(Encoding.DER)
    # SHA-256 is the default algorithm of an ESSCertIDv2, and DER omits defaults.
    identifier = der.sequence(der.encode(der.OCTET_STRING, hashlib.sha256(encoded).digest()))
    attributes = [
        _attribute(_CONTENT_TYPE, der.object_id(_TST_INFO)),
        _attribute(_MESSAGE_DIGEST, der.encode(der.OCTET_STRING, hashlib.sha256(info).digest())),
        _attribute(_SIGNING_CERTIFICATE_V2, der.sequence(der.sequence(identifier))),
    ]
    # DER sorts the elements of a set.
    attributes.sort()
    # What is signed has the tag of a set, but what is sent has a context-specific tag.
    signature = signer.key.sign(der.encode(der.SET, *attributes), ec.ECDSA(hashes.SHA256()))

    issuer = signer.certificate.issuer.public_bytes()
    sha256 = der.sequence(der.object_id(SHA256))
    # The parts of a SignerInfo (RFC 5652, section 5.3).
    signer_parts = [
        _SIGNER_VERSION,
        der.sequence(issuer, der.integer(signer.certificate.serial_number)),
        sha256,
        der.encode(_CONTEXT_0, *attributes),
        der.sequence(der.object_id(_ECDSA_WITH_SHA256)),
        der.encode(der.OCTET_STRING, signature),
    ]
    content = der.encode(_CONTEXT_0, der.encode(der.OCTET_STRING, info))
    certificates = b""
    if has_certificates:
        certificates = der.encode(_CONTEXT_0, encoded)
    # The parts of SignedData (RFC 5652, section 5.1).
    signed_parts = [
        _CMS_VERSION,
        der.encode(der.SET, sha256),
        der.sequence(der.object_id(_TST_INFO), content),
        certificates,
        der.encode(der.SET, der.sequence(*signer_parts)),
    ]
    signed_data = der.encode(_CONTEXT_0, der.sequence(*signed_parts))
    return der.sequence(der.object_id(_SIGNED_DATA), signed_data)


def _attribute(kind: str, value: bytes) -> bytes:
    return der.sequence(der.object_id(kind), der.encode(der.SET, value))


def _make_key(seed: str = "") -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    if seed:
        return ec.derive_private_key(_number(f"{seed}/key"), ec.SECP256R1())
    return ec.generate_private_key(ec.SECP256R1())


def _number(seed: str) -> int:
    """Return a positive number of 19 bytes: a serial number may have 20 bytes, a key 32."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:19]) + 1


def _make_certificate(
    name: str,
    key: "EllipticCurvePrivateKey",
    *,
    issuer: "Certificate | None" = None,
    issuer_key: "EllipticCurvePrivateKey | None" = None,
    valid_until: datetime = _VALID_UNTIL,
    is_for_stamps: bool = True,
    seed: str = "",
) -> "Certificate":
    """
    Return a certificate of `key`: a root, or a certificate that `issuer` signs.

    With a `seed`, it is the same certificate each time.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_root = issuer is None
    usage: Any = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    if not is_for_stamps:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    serial_number = x509.random_serial_number()
    if seed:
        serial_number = _number(f"{seed}/serial number")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial_number)
        .not_valid_before(_VALID_FROM)
        .not_valid_after(valid_until)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(_key_usage(is_root=is_root), critical=True)
    )
    if not is_root:
        builder = builder.add_extension(usage, critical=True)
    # An ordinary signature of ECDSA contains a random number.
    return builder.sign(issuer_key or key, hashes.SHA256(), ecdsa_deterministic=bool(seed))


def _key_usage(*, is_root: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )
