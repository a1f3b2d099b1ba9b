"""Public keys looked at, and key pairs made: RSA for ssh, a certificate for x509, as Nova makes them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from openimds.resources.errors import BadRequest

RSA_BITS = 2048
CERTIFICATE_LIFE = timedelta(days=3650)
UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""Windows' user principal name, by which WinRM knows who a certificate stands for."""


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    public_key: str
    private_key: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"MadeKey({self.fingerprint})"


def fingerprint(kind: str, public_key: str) -> str:
    """`4e:48:…`: MD5 of an ssh key, SHA-1 of a certificate. Raises BadRequest for what is neither."""
    return _certificate_fingerprint(public_key) if kind == "x509" else _ssh_fingerprint(public_key)


def generate_ssh_key() -> GeneratedKey:
    private = rsa.generate_private_key(65537, RSA_BITS)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    text = f"{public.decode()} Generated-by-Nova"
    return GeneratedKey(text, _pem(private), _ssh_fingerprint(text))


def generate_x509_key(user_id: str, now: datetime) -> GeneratedKey:
    """A self-signed certificate for a client, with the user as its principal."""
    private = rsa.generate_private_key(65537, RSA_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id[:64])])
    principal = f"{user_id}@localhost".encode()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + CERTIFICATE_LIFE)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.OtherName(UPN, b"\x0c" + bytes([len(principal)]) + principal)]),
            critical=False,
        )
        .sign(private, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return GeneratedKey(text, _pem(private), _certificate_fingerprint(text))


def _ssh_fingerprint(public_key: str) -> str:
    """Any algorithm will do, so long as the key says inside what it says outside: `ssh-ed25519 AAAA… comment`."""
    parts = public_key.split(None, 2)
    try:
        if "\n" in public_key.strip() or len(parts) < 2:
            raise ValueError("one line: type, key, comment")
        blob = base64.b64decode(parts[1], validate=True)
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 8 or blob[4 : 4 + length] != parts[0].encode() or len(blob) <= 4 + length:
            raise ValueError("the key is not of the type that it says")
    except (ValueError, binascii.Error) as error:
        raise BadRequest(
            "public_key", f"public_key: Keypair data is invalid: failed to generate fingerprint: {error}"
        ) from error
    return _colons(hashlib.md5(blob, usedforsecurity=False).hexdigest())


def _certificate_fingerprint(public_key: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(public_key.encode())
    except ValueError as error:
        raise BadRequest("public_key", "public_key: Keypair data is invalid: it is no PEM certificate") from error
    return _colons(certificate.fingerprint(hashes.SHA1()).hex())  # noqa: S303 - a name, not a protection


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _pem(private: rsa.RSAPrivateKey) -> str:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
