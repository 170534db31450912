"""
Timestamps: which responses are valid timestamps of a journal's entry.

The responses are those of the simulated authority, and of `openssl ts -reply`, which shares no code
with it. `openssl ts -verify` says whether a response is valid.
"""

import hashlib
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from openssl_program import accepts, openssl
from tracked import HOUSE

from app.domain import der, rfc3161
from app.domain.rfc3161 import Stamp
from app.domain.timestamps import Timestamp, TimestampKind, TimestampStatus
from app.domain.verification.stamps import StampVerifier
from app.errors import ConfigurationError, ProviderUnavailable, UnusableStamp
from app.simulation import timestamp_authority
from app.simulation.timestamp_authority import SHA512, SimulatedAuthority

# An entry of a journal as it is hashed: the hash before it, a line feed, its content.
ENTRY = b"0" * 64 + b'\n{"at":"2026-11-16T14:00:02.000000Z","kind":"BATCH","seq":"1"}'
# Computed with `sha256sum`.
ENTRY_HASH = "a5fde59985559e3cd0de1e849d570f1ae574a2d64a37f7a38fe816a6689dfa27"
NOW = datetime(2026, 11, 16, 14, 4, 5, 678_901, tzinfo=UTC)
NAME = "https://stamps.example/tsr"


class Stamped(NamedTuple):
    """A request and its response, with the authority that made it."""

    authority: SimulatedAuthority
    request: rfc3161.StampRequest
    response: bytes

    @property
    def roots(self) -> list[x509.Certificate]:
        """The authority's root alone."""
        return rfc3161.read_roots(self.authority.root_pem)

    def verify(self, response: bytes) -> Stamp:
        """Verify another response to this request."""
        return rfc3161.verify_response(
            response,
            data_hash=ENTRY_HASH,
            nonce=self.request.nonce,
            roots=self.roots,
            authority=NAME,
        )

    def change(self, **changes: object) -> bytes:
        """Return another response to this request: `SimulatedAuthority.stamp`."""
        at = changes.pop("at", NOW)
        return self.authority.stamp(self.request.encoded, at, **changes)


@pytest.fixture(scope="module")
def stamped():
    """A good response of a simulated authority."""
    authority = SimulatedAuthority()
    request = rfc3161.make_request(ENTRY)
    return Stamped(authority, request, authority.stamp(request.encoded, NOW))


# Requests


def test_the_request_is_for_the_hash_of_the_entry(tmp_path):
    """So the timestamp has the hash of the journal, by SHA-256, and `openssl` reads it so."""
    assert hashlib.sha256(ENTRY).hexdigest() == ENTRY_HASH
    request = rfc3161.make_request(ENTRY)
    assert request.data_hash == ENTRY_HASH
    (tmp_path / "query.tsq").write_bytes(request.encoded)
    text = openssl("ts", "-query", "-in", "query.tsq", "-text", cwd=tmp_path).stdout
    lines = [line for line in text.splitlines() if " - " in line]
    printed = "".join(line.split(" - ")[1][:47] for line in lines)
    assert printed.replace(" ", "").replace("-", "") == ENTRY_HASH
    assert "Hash Algorithm: sha256\n" in text
    assert "Certificate required: yes\n" in text
    assert int(text.split("Nonce: ")[1].split()[0], 16) == request.nonce


def test_each_request_has_a_nonce_of_its_own():
    """A timestamp of an earlier request for the same entry is not accepted."""
    assert len({rfc3161.make_request(ENTRY).nonce for _ in range(100)}) == 100


# Valid timestamps


def test_a_valid_stamp(stamped):
    """It has the time in UTC, the accuracy, the nonce, and the chain from signer to root."""
    stamp = stamped.verify(stamped.response)
    assert stamp.gen_time == NOW.replace(microsecond=0)
    assert stamp.gen_time.tzinfo is UTC
    assert stamp.accuracy_seconds == Decimal(1)
    assert stamp.nonce == stamped.request.nonce
    signer, root = x509.load_pem_x509_certificates(stamp.chain_pem.encode())
    assert signer.subject.rfc4514_string() == "CN=Simulated time-stamping authority"
    assert root == stamped.authority.root


def test_openssl_accepts_it(stamped, tmp_path):
    """With the root, the hash and the time, and nothing else."""
    proof = {"data_hash": ENTRY_HASH, "root": stamped.authority.root_pem, "cwd": tmp_path}
    assert accepts(stamped.response, at=NOW, **proof)
    assert not accepts(stamped.response, at=NOW, **{**proof, "data_hash": "0" * 64})
    assert not accepts(stamped.response, at=datetime(2110, 6, 1, tzinfo=UTC), **proof)


def test_the_nonce_need_not_be_known(stamped):
    """A verifier who has only the record's rows can check the timestamp."""
    stamp = rfc3161.verify_response(
        stamped.response, data_hash=ENTRY_HASH, nonce=None, roots=stamped.roots
    )
    assert stamp == stamped.verify(stamped.response)


def test_granted_with_modifications(stamped):
    """This status is as good as "granted": what could be modified is checked."""
    assert stamped.verify(stamped.change(status=1)).gen_time == NOW.replace(microsecond=0)


def test_one_of_several_roots(stamped):
    """Other pinned roots do not disturb, and the chain ends at the right one."""
    others = [SimulatedAuthority().root for _ in range(3)]
    stamp = rfc3161.verify_response(
        stamped.response,
        data_hash=ENTRY_HASH,
        nonce=None,
        roots=[*others, *stamped.roots],
    )
    assert stamp.chain_pem.encode().endswith(stamped.authority.root_pem)


def test_a_root_that_was_renewed(stamped):
    """Two pinned roots have one name and one key: the chain ends at the one that is still valid."""
    former = timestamp_authority._make_certificate(
        "Simulated root",
        stamped.authority._root_key,
        valid_until=datetime(2021, 1, 1, tzinfo=UTC),
    )
    for roots in ([former, *stamped.roots], [*stamped.roots, former]):
        stamp = rfc3161.verify_response(
            stamped.response, data_hash=ENTRY_HASH, nonce=None, roots=roots
        )
        assert stamp.chain_pem.encode().endswith(stamped.authority.root_pem)
    with pytest.raises(UnusableStamp, match="that was valid at the time of the timestamp"):
        rfc3161.verify_response(stamped.response, data_hash=ENTRY_HASH, nonce=None, roots=[former])


@pytest.fixture(scope="module")
def openssl_authority(tmp_path_factory):
    """A folder with an authority of `openssl`: a root, an intermediate certificate, a signer."""
    folder = tmp_path_factory.mktemp("authority")
    make_openssl_authority(folder)
    return folder


# Keys of `openssl`, as arguments.
RSA_512, RSA_1024, RSA_2048 = (["rsa:512"], ["rsa:1024"], ["rsa:2048"])
P_192, P_521, BRAINPOOL = (
    ["ec", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    for curve in ("prime192v1", "secp521r1", "brainpoolP256r1")
)


def make_openssl_authority(folder, **keys: list[str]) -> None:
    """Make the files of an authority. `keys` has other keys than RSA_2048, by certificate."""
    (folder / "ts.cnf").write_text(
        """
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[signer]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[stamps]
serial = serial
signer_cert = signer.pem
certs = intermediate.pem
signer_key = signer.key
signer_digest = sha512
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:1, millisecs:500, microsecs:100
clock_precision_digits = 3
ordering = yes
tsa_name = yes
ess_cert_id_chain = yes
ess_cert_id_alg = sha384
[weak_stamps]
serial = serial
signer_cert = signer.pem
certs = intermediate.pem
signer_key = signer.key
signer_digest = sha1
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
[vague_stamps]
serial = serial
signer_cert = signer.pem
certs = intermediate.pem
signer_key = signer.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:86401
ess_cert_id_alg = sha256
[old_stamps]
serial = serial
signer_cert = signer.pem
signer_key = signer.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha1
"""
    )
    issuers = {"root": "root", "intermediate": "root", "signer": "intermediate"}
    for number, (name, issuer) in enumerate(issuers.items()):
        key = keys.get(name, RSA_2048)
        request = ["req", "-new", "-newkey", *key, "-nodes", "-subj", f"/CN={name} of a test"]
        made = openssl(*request, "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)
        assert made.returncode == 0, made.stderr
        signed_by = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-set_serial", number]
        if issuer == name:
            signed_by = ["-signkey", f"{name}.key"]
        sections = "signer" if name == "signer" else "ca"
        made = openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-days", 30),
            *("-extfile", "ts.cnf", "-extensions", sections, *signed_by),
            cwd=folder,
        )
        assert made.returncode == 0, made.stderr


def reply_of_openssl(folder, section: str) -> tuple[rfc3161.StampRequest, bytes]:
    request = rfc3161.make_request(ENTRY)
    (folder / "query.tsq").write_bytes(request.encoded)
    made = openssl(
        *("ts", "-reply", "-config", "ts.cnf", "-section", section),
        *("-queryfile", "query.tsq", "-out", "reply.tsr"),
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    return request, (folder / "reply.tsr").read_bytes()


def test_a_stamp_of_another_implementation(openssl_authority):
    """
    It is read as `openssl` prints it: milliseconds, all parts of the accuracy, three certificates.

    The signature is of RSA and SHA-512, and names two certificates by SHA-384.
    """
    request, response = reply_of_openssl(openssl_authority, "stamps")
    roots = rfc3161.read_roots((openssl_authority / "root.pem").read_bytes())
    stamp = rfc3161.verify_response(
        response, data_hash=ENTRY_HASH, nonce=request.nonce, roots=roots
    )
    text = openssl("ts", "-reply", "-in", "reply.tsr", "-text", cwd=openssl_authority).stdout
    printed = text.split("Time stamp: ")[1].split(" GMT")[0]
    moment, _, year = printed.rpartition(" ")
    if "." not in moment:
        moment += ".0"
    expected = datetime.strptime(f"{year} {moment}", "%Y %b %d %H:%M:%S.%f").replace(tzinfo=UTC)
    assert stamp.gen_time == expected
    assert stamp.accuracy_seconds == Decimal("1.5001")
    chain = x509.load_pem_x509_certificates(stamp.chain_pem.encode())
    names = [one.subject.rfc4514_string() for one in chain]
    assert names == ["CN=signer of a test", "CN=intermediate of a test", "CN=root of a test"]


def test_a_stamp_in_the_older_form(openssl_authority):
    """It names the certificate by its SHA-1, states no accuracy, and lacks the intermediate one."""
    request, response = reply_of_openssl(openssl_authority, "old_stamps")
    pem = (openssl_authority / "root.pem").read_bytes()
    proof = {"data_hash": ENTRY_HASH, "nonce": request.nonce}
    with pytest.raises(UnusableStamp, match="leads to no pinned root"):
        rfc3161.verify_response(response, roots=rfc3161.read_roots(pem), **proof)
    pem += (openssl_authority / "intermediate.pem").read_bytes()
    stamp = rfc3161.verify_response(response, roots=rfc3161.read_roots(pem), **proof)
    assert stamp.accuracy_seconds == 0
    assert stamp.chain_pem.count("BEGIN CERTIFICATE") == 3


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_chain_that_was_completed_by_a_pinned_certificate(openssl_authority, is_pinned):
    """The token lacks a certificate. The stored chain has it, so the root alone is enough later."""
    request, response = reply_of_openssl(openssl_authority, "old_stamps")
    root_pem = (openssl_authority / "root.pem").read_bytes()
    pinned = rfc3161.read_roots(root_pem + (openssl_authority / "intermediate.pem").read_bytes())
    stamp = rfc3161.verify_response(
        response, data_hash=ENTRY_HASH, nonce=request.nonce, roots=pinned
    )
    roots = rfc3161.read_roots(root_pem) if is_pinned else None
    verifier = StampVerifier({7: ENTRY_HASH}, roots)
    verifier.check(
        Timestamp(
            id=UUID(int=7),
            seq=7,
            hash=ENTRY_HASH,
            kind=TimestampKind.RFC3161,
            status=TimestampStatus.CONFIRMED,
            authority="https://tsa.example",
            at=stamp.gen_time,
            accuracy_seconds=stamp.accuracy_seconds,
            received_at=stamp.gen_time,
            nonce=str(stamp.nonce),
            proof=response,
            chain=stamp.chain_pem,
        )
    )
    assert verifier.tokens == 1


@pytest.mark.parametrize(
    ("section", "flaw"),
    [
        pytest.param("weak_stamps", "signed a hash that is not of the SHA-2 family", id="SHA-1"),
        pytest.param(
            "vague_stamps",
            "sent a timestamp whose time may be wrong by more than a day",
            id="a day and a second",
        ),
    ],
)
def test_a_valid_stamp_that_is_refused(openssl_authority, section, flaw):
    """OpenSSL accepts it, but it would prove too little."""
    request, response = reply_of_openssl(openssl_authority, section)
    root = (openssl_authority / "root.pem").read_bytes()
    at = datetime.now(UTC)
    assert accepts(response, data_hash=ENTRY_HASH, root=root, at=at, cwd=openssl_authority)
    with pytest.raises(UnusableStamp, match=f"{flaw}\\.$"):
        rfc3161.verify_response(
            response,
            data_hash=ENTRY_HASH,
            nonce=request.nonce,
            roots=rfc3161.read_roots(root),
        )


def test_an_intermediate_certificate_is_no_root(openssl_authority):
    """A chain ends only at a certificate that signs itself."""
    request, response = reply_of_openssl(openssl_authority, "stamps")
    root = SimulatedAuthority().root_pem
    intermediate = (openssl_authority / "intermediate.pem").read_bytes()
    with pytest.raises(UnusableStamp, match="leads to no pinned root"):
        rfc3161.verify_response(
            response,
            data_hash=ENTRY_HASH,
            nonce=request.nonce,
            roots=rfc3161.read_roots(root + intermediate),
        )


# Stamps that are not valid


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        pytest.param(
            {"digest": bytes(32)}, "stamped another hash than the requested one", id="digest"
        ),
        pytest.param(
            {"algorithm": SHA512}, "stamped a hash that is no SHA-256", id="another algorithm"
        ),
        pytest.param(
            {"algorithm": SHA512, "digest": hashlib.sha512(ENTRY).digest()},
            "stamped a hash that is no SHA-256",
            id="SHA-512",
        ),
        pytest.param(
            {"nonce_offset": 1},
            "sent a timestamp for another request: its nonce is another one",
            id="another nonce",
        ),
        pytest.param(
            {"nonce_offset": None},
            "sent a timestamp for another request: its nonce is another one",
            id="no nonce",
        ),
        pytest.param(
            {"signer": timestamp_authority.EXPIRED},
            "signed with a certificate that was not valid at the time of the timestamp",
            id="an expired certificate",
        ),
        pytest.param(
            {"at": datetime(2110, 1, 2, tzinfo=UTC)},
            "signed with a certificate that was not valid at the time of the timestamp",
            id="a certificate that expires before the timestamp",
        ),
        pytest.param(
            {"signer": timestamp_authority.OTHER_ROOT},
            "signed with a certificate that leads to no pinned root (TIMESTAMP_ROOTS or "
            "--timestamp-root) that was valid at the time of the timestamp",
            id="another root",
        ),
        pytest.param(
            {"signer": timestamp_authority.WRONG_PURPOSE},
            "signed with a certificate that is not for timestamps alone",
            id="a certificate of a web server",
        ),
        pytest.param(
            {"has_certificates": False},
            "did not send the certificate of its signature",
            id="no certificate",
        ),
        pytest.param(
            {"status": 2},
            'did not grant the timestamp: it answered with the status 2, "rejection"',
            id="a timestamp that is not granted",
        ),
        pytest.param(
            {"status": 3},
            'did not grant the timestamp: it answered with the status 3, "waiting"',
            id="a timestamp that waits",
        ),
        pytest.param(
            {"status": 77},
            "did not grant the timestamp: it answered with an unknown status",
            id="an unknown status",
        ),
    ],
)
def test_a_stamp_that_is_refused(stamped, changes, flaw):
    """The error's class says that another attempt may succeed; its text says what is wrong."""
    with pytest.raises(UnusableStamp) as error:
        stamped.verify(stamped.change(**changes))
    assert str(error.value) == f"The time-stamping authority {NAME} {flaw}."
    assert isinstance(error.value, ProviderUnavailable)
    assert error.value.__suppress_context__


def test_without_a_name(stamped):
    """The sentence is complete if the authority's name is not known."""
    with pytest.raises(UnusableStamp, match=r"^The time-stamping authority stamped another hash"):
        rfc3161.verify_response(
            stamped.response, data_hash="0" * 64, nonce=None, roots=stamped.roots
        )


def test_the_clock_is_not_compared(stamped):
    """A timestamp can be verified decades later, and one of the future is the client's matter."""
    later = NOW + timedelta(days=20_000)
    assert stamped.verify(stamped.change(at=later)).gen_time == later.replace(microsecond=0)


def rebuilt(stamped: Stamped, change) -> bytes:
    """Return the good response with the list of SignedData's parts changed."""
    (response,) = der.elements(stamped.response)
    status, token = response.children()
    kind, explicit = token.children()
    (signed_data,) = explicit.children()
    parts = [one.encoded for one in signed_data.children()]
    change(parts)
    explicit = der.encode(0xA0, der.sequence(*parts))
    return der.sequence(status.encoded, der.sequence(kind.encoded, explicit))


def test_two_signatures(stamped):
    """A timestamp has exactly one, even if both are valid."""

    def repeat_signature(parts):
        (signers,) = der.elements(parts[-1])
        parts[-1] = der.encode(der.SET, signers.content, signers.content)

    with pytest.raises(UnusableStamp, match="with several signatures"):
        stamped.verify(rebuilt(stamped, repeat_signature))


def test_no_signature(stamped):
    """A timestamp without a signature is none."""

    def remove_signature(parts):
        parts[-1] = der.encode(der.SET)

    with pytest.raises(UnusableStamp):
        stamped.verify(rebuilt(stamped, remove_signature))


def with_certificates(stamped: Stamped, *added: x509.Certificate) -> bytes:
    """Return the good response with more certificates, which are not signed."""

    def add(parts):
        (sent,) = der.elements(parts[3])
        more = [one.public_bytes(Encoding.DER) for one in added]
        parts[3] = der.encode(0xA0, sent.content, *more)

    return rebuilt(stamped, add)


def test_added_certificates_change_nothing(stamped):
    """Those that the signature does not need are ignored; their order is free."""
    others = [SimulatedAuthority().root, SimulatedAuthority().root]
    for order in (others, others[::-1]):
        response = with_certificates(stamped, *order)
        assert stamped.verify(response) == stamped.verify(stamped.response)


def test_a_sent_root_is_not_trusted(stamped):
    """Only the pinned roots count, not those that a response brings."""
    other = SimulatedAuthority()
    response = with_certificates(stamped, stamped.authority.root)
    with pytest.raises(UnusableStamp, match="leads to no pinned root"):
        rfc3161.verify_response(
            response,
            data_hash=ENTRY_HASH,
            nonce=None,
            roots=rfc3161.read_roots(other.root_pem),
        )


def test_very_many_certificates(stamped):
    """They are not tried."""
    roots = [SimulatedAuthority().root for _ in range(10)]
    with pytest.raises(UnusableStamp, match="sent more than 10 certificates"):
        stamped.verify(with_certificates(stamped, *roots))


def test_another_certificate_of_the_signers_key(stamped, tmp_path):
    """
    A certificate with the same issuer, number and key takes the place of the signer's.

    The signature itself is right. Only the attribute that names the certificate reveals this.
    """
    signer = stamped.authority._signers[timestamp_authority.VALID]
    builder = (
        x509.CertificateBuilder()
        .subject_name(signer.certificate.subject)
        .issuer_name(signer.certificate.issuer)
        .public_key(signer.key.public_key())
        .serial_number(signer.certificate.serial_number)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2110, 1, 2, tzinfo=UTC))
    )
    for extension in signer.certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    root_key = stamped.authority._root_key
    other = builder.sign(root_key, signer.certificate.signature_hash_algorithm)

    def replace_certificate(parts):
        parts[3] = der.encode(0xA0, other.public_bytes(Encoding.DER))

    response = rebuilt(stamped, replace_certificate)
    root = stamped.authority.root_pem
    assert not accepts(response, data_hash=ENTRY_HASH, root=root, at=NOW, cwd=tmp_path)
    with pytest.raises(UnusableStamp, match="with another certificate than the one that the sig"):
        stamped.verify(response)
    with pytest.raises(UnusableStamp, match="sent several certificates for one signature"):
        stamped.verify(with_certificates(stamped, other))


def test_a_signature_that_names_no_certificate(stamped, tmp_path, monkeypatch):
    """The signature is right, but any certificate of the same key could take the signer's place."""
    monkeypatch.setattr(timestamp_authority, "_SIGNING_CERTIFICATE_V2", "1.2.3.4")
    response = stamped.change()
    root = stamped.authority.root_pem
    assert not accepts(response, data_hash=ENTRY_HASH, root=root, at=NOW, cwd=tmp_path)
    with pytest.raises(UnusableStamp, match="sent a signature that does not name its certificate"):
        stamped.verify(response)


KEYS = {
    "RSA of 512 bits": ({"signer": RSA_512}, "key has 512 bits, and not 2048"),
    "RSA of 1,024 bits": ({"signer": RSA_1024}, "key has 1024 bits, and not 2048"),
    "a small curve": ({"signer": P_192}, "key has 192 bits, and not 224"),
    "an intermediate certificate": ({"intermediate": RSA_1024}, "key has 1024 bits"),
    "a root": ({"root": RSA_1024}, "key has 1024 bits"),
    "a root of a small curve": ({"root": P_192}, "key has 192 bits"),
    "a great curve": ({"signer": P_521}, ""),
    "another curve": ({"signer": BRAINPOOL, "root": P_521}, ""),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_length_of_keys(tmp_path, name):
    """A short key can be computed from its certificate, and then anybody can sign with it."""
    keys, sentence = KEYS[name]
    make_openssl_authority(tmp_path, **keys)
    request, response = reply_of_openssl(tmp_path, "old_stamps")
    pem = (tmp_path / "root.pem").read_bytes() + (tmp_path / "intermediate.pem").read_bytes()
    proof = {"data_hash": ENTRY_HASH, "nonce": request.nonce, "roots": rfc3161.read_roots(pem)}
    if not sentence:
        assert rfc3161.verify_response(response, **proof).nonce == request.nonce
        return
    with pytest.raises(UnusableStamp, match=sentence):
        rfc3161.verify_response(response, **proof)


CONTENT_TYPE, DIGEST, CERTIFICATE = (
    timestamp_authority._CONTENT_TYPE,
    timestamp_authority._MESSAGE_DIGEST,
    timestamp_authority._SIGNING_CERTIFICATE_V2,
)
DATA = der.object_id("1.2.840.113549.1.7.1")
TWICE = "signed an attribute twice"
OTHER_CONTENT = "sent a signature that is not of a timestamp: its content type is another one"
make_attribute = timestamp_authority._attribute


def _again_as_issuer(kind, value):
    """Name the signer's certificate once more, where its issuer's may stand."""
    (certificates,) = der.elements(value)
    (identifiers,) = certificates.children()
    return make_attribute(kind, der.sequence(der.sequence(identifiers.content * 2)))


# How an attribute of a signature is changed before it is signed, and what the error says.
ATTRIBUTES = {
    "another content type": (
        CONTENT_TYPE,
        lambda kind, value: make_attribute(kind, DATA),
        OTHER_CONTENT,
    ),
    "no content type": (CONTENT_TYPE, lambda kind, value: b"", OTHER_CONTENT),
    "two content types": (
        CONTENT_TYPE,
        lambda kind, value: make_attribute(kind, DATA) + make_attribute(kind, value),
        TWICE,
    ),
    "two values of the content type": (
        CONTENT_TYPE,
        lambda kind, value: make_attribute(kind, value + DATA),
        "bytes that are no timestamp",
    ),
    "two digests": (
        DIGEST,
        lambda kind, value: (
            make_attribute(kind, value)
            + make_attribute(kind, der.encode(der.OCTET_STRING, b"\xff" * 32))
        ),
        TWICE,
    ),
    "two values of the digest": (
        DIGEST,
        lambda kind, value: make_attribute(kind, value * 2),
        "bytes that are no timestamp",
    ),
    "the certificate's name twice": (
        CERTIFICATE,
        lambda kind, value: make_attribute(kind, value) * 2,
        TWICE,
    ),
    "the signer as its own issuer": (
        CERTIFICATE,
        _again_as_issuer,
        "with another certificate than the one that the signature names",
    ),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_signed_attributes(stamped, monkeypatch, name):
    """The signature is right, but RFC 5652 or RFC 5816 does not allow what is signed."""
    changed, change, sentence = ATTRIBUTES[name]

    def attribute(kind, value):
        if kind == changed:
            return change(kind, value)
        return make_attribute(kind, value)

    monkeypatch.setattr(timestamp_authority, "_attribute", attribute)
    with pytest.raises(UnusableStamp, match=sentence):
        stamped.verify(stamped.change())


# Bytes that are no stamps


ODD = {
    "nothing": b"",
    "HTML": b"<!DOCTYPE html><html><body>Sorry</body></html>",
    "JSON": b'{"error": "no"}',
    "PEM": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "NUL bytes": bytes(9_000),
    "an empty sequence": der.sequence(),
    "a status alone": der.sequence(der.sequence(der.integer(0))),
    "a rejection": timestamp_authority.reject(),
    "a status of another type": der.sequence(der.encode(der.UTF8_STRING, b"granted")),
    "a huge status": der.sequence(der.sequence(der.integer(2**4000))),
    "a negative status": der.sequence(der.sequence(bytes.fromhex("0201ff"))),
    "an empty token": der.sequence(der.sequence(der.integer(0)), der.sequence()),
    "nested sequences": b"\x30\x80" * 7_000,
    "nested lengths": b"\x30\x83\xff\xff\xff" * 3_000,
    "an announced gigabyte": bytes.fromhex("30844000000002010030"),
    "a long tag": b"\x3f" + b"\xff" * 9_000,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_bytes(stamped, name):
    """They are refused with one line."""
    with pytest.raises(UnusableStamp) as error:
        stamped.verify(ODD[name])
    assert str(error.value).startswith(f"The time-stamping authority {NAME} ")
    assert "\n" not in str(error.value)


def test_nested_to_the_limit(stamped):
    """Thousands of levels of valid DER are refused, and nothing overflows."""
    bomb = b""
    while len(bomb) < rfc3161.MAX_RESPONSE_BYTES - 10:
        bomb = der.sequence(bomb)
    token = der.encode(0xA0, bomb[: rfc3161.MAX_RESPONSE_BYTES - 1_000])
    for response in (bomb, der.sequence(der.sequence(der.integer(0)), der.sequence(token))):
        with pytest.raises(UnusableStamp):
            stamped.verify(response)


def test_a_response_that_is_too_long(stamped):
    """It is not even parsed."""
    with pytest.raises(UnusableStamp, match=r"answered with more than 16,000 bytes\.$"):
        stamped.verify(stamped.response.ljust(20_000, b"\0"))


def test_a_response_with_more_behind_it(stamped):
    """A timestamp ends where it says."""
    with pytest.raises(UnusableStamp):
        stamped.verify(stamped.response + b"\0")


def test_every_shorter_response(stamped):
    """The beginning of a timestamp is no timestamp."""
    for length in range(len(stamped.response)):
        with pytest.raises(UnusableStamp):
            stamped.verify(stamped.response[:length])


def test_every_flipped_byte(stamped, tmp_path):
    """
    A changed byte is refused, or it is one that the signature does not cover.

    The status, two version numbers, and the name of the signature's algorithm, which the key
    already decides: these are the bytes that CMS does not sign. Then the timestamp says the same,
    and `openssl` accepts it, too.
    """
    good = stamped.verify(stamped.response)
    accepted = {}
    for place in range(len(stamped.response)):
        for flipped in (0x01, 0x80, 0xFF):
            changed = bytearray(stamped.response)
            changed[place] ^= flipped
            try:
                stamp = stamped.verify(bytes(changed))
            except UnusableStamp:
                continue
            assert stamp == good
            accepted[place] = bytes(changed)

    granted = stamped.response.index(der.sequence(der.integer(0))) + 4
    version = stamped.response.index(bytes.fromhex("020103")) + 2
    algorithm = stamped.response.rindex(der.object_id("1.2.840.10045.4.3.2"))
    signer_info = stamped.response.rindex(b"\x02\x01\x01\x30") + 2
    unsigned = {granted, version, signer_info, *range(algorithm, algorithm + 10)}
    assert set(accepted) <= unsigned
    for response in accepted.values():
        root = stamped.authority.root_pem
        assert accepts(response, data_hash=ENTRY_HASH, root=root, at=NOW, cwd=tmp_path)


def test_random_changes(stamped):
    """Bytes are replaced, removed, added or copied: never another error, never another stamp."""
    good = stamped.verify(stamped.response)
    rng = random.Random("time stamps")
    for _ in range(3_000):
        changed = bytearray(stamped.response)
        for _ in range(rng.choice([1, 1, 2, 4, 8])):
            place = rng.randrange(len(changed))
            match rng.randrange(4):
                case 0:
                    changed[place] = rng.randrange(256)
                case 1:
                    del changed[place : place + rng.randrange(1, 20)]
                case 2:
                    changed[place:place] = rng.randbytes(rng.randrange(1, 20))
                case _:
                    start = rng.randrange(len(changed))
                    changed[place:place] = changed[start : start + rng.randrange(1, 60)]
            changed = changed or bytearray(b"0")
        try:
            stamp = stamped.verify(bytes(changed))
        except UnusableStamp:
            continue
        assert stamp == good


# The library


def test_the_library_is_imported_late():
    """A service that starts needs neither its time nor its memory."""
    modules = "app.domain.rfc3161, app.providers.timestamp_authority, app.simulation.faults"
    code = f"import {modules}, sys; print({{'cryptography', 'rfc3161_client'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE)
    assert ended.stdout == "set()\n", ended.stderr


# Pinned certificates


def test_the_fingerprint(stamped, tmp_path):
    """It is the one that `openssl` prints."""
    (tmp_path / "root.pem").write_bytes(stamped.authority.root_pem)
    printed = openssl(
        *("x509", "-in", "root.pem", "-noout", "-fingerprint", "-sha256"), cwd=tmp_path
    ).stdout
    digits = printed.strip().partition("=")[2].replace(":", "").lower()
    assert rfc3161.fingerprint(stamped.authority.root) == digits


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b"\xff\x00", "cannot be read", id="no text"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "cannot be read",
            id="no certificate",
        ),
    ],
)
def test_a_file_without_certificates(pem, problem):
    """The error says what the file must contain."""
    with pytest.raises(
        ConfigurationError, match=f"^The file of TIMESTAMP_ROOTS {problem}"
    ) as error:
        rfc3161.read_roots(pem)
    assert "\n" not in str(error.value)


ROOT = SimulatedAuthority().root_pem
KEY = b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"
HAS_KEY = "contains a private key: put certificates into it, and nothing secret."
IS_DAMAGED = "cannot be read: a part of it is no whole certificate in PEM form."


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        pytest.param(ROOT + KEY, HAS_KEY, id="a key behind"),
        pytest.param(KEY + ROOT, HAS_KEY, id="a key before"),
        pytest.param(KEY.replace(b"EC", b"ENCRYPTED") + ROOT, HAS_KEY, id="an encrypted key"),
        pytest.param(KEY, HAS_KEY, id="a key alone"),
        pytest.param(ROOT + ROOT[:200], IS_DAMAGED, id="an end that was cut off"),
        pytest.param(
            ROOT + KEY.replace(b"EC PRIVATE KEY", b"X509 CRL"),
            IS_DAMAGED,
            id="a list of revoked certificates",
        ),
        pytest.param(
            ROOT + ROOT.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
            IS_DAMAGED,
            id="a certificate of another form",
        ),
        pytest.param(
            ROOT + KEY.replace(b"EC PRIVATE KEY", b"CERTIFICATE REQUEST"),
            IS_DAMAGED,
            id="a request for a certificate",
        ),
    ],
)
def test_a_file_with_something_else(pem, problem):
    """It is not ignored: the operator would believe that it counts, or that nothing is secret."""
    with pytest.raises(ConfigurationError) as error:
        rfc3161.read_roots(pem)
    assert str(error.value) == f"The file of TIMESTAMP_ROOTS {problem}"


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(ROOT.replace(b"\n", b"\r\n"), id="CR LF"),
        pytest.param(b"\xef\xbb\xbf" + ROOT, id="a byte order mark"),
        pytest.param(b"The root of a test:\n\n" + ROOT + b"\nThe end\n", id="text around it"),
        pytest.param(ROOT * 3, id="three times"),
        pytest.param(ROOT * 500, id="five hundred times"),
    ],
)
def test_a_file_with_one_root(pem):
    """A certificate counts once, whatever the line ends and the text around it are."""
    (root,) = rfc3161.read_roots(pem)
    assert root.public_bytes(Encoding.PEM) == ROOT


def test_a_file_without_a_root(stamped):
    """The signer's certificate alone could never end a chain."""
    chain = stamped.verify(stamped.response).chain_pem
    signer = chain[: chain.index("-----END") + len("-----END CERTIFICATE-----\n")]
    with pytest.raises(ConfigurationError, match=r"^The file of TIMESTAMP_ROOTS has no root"):
        rfc3161.read_roots(signer.encode())
