"""`/os-keypairs`: imports public keys and generates key pairs (RSA for ssh, a certificate for x509), as Nova does."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from openimds.control_api.compute.microversions import Microversion, Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.compute.schemas import KeypairCreate
from openimds.control_api.context import AuthenticatedCaller, RequestContext
from openimds.control_api.pagination import Paging, next_link, paginate
from openimds.control_api.routing import ServiceRouter
from openimds.resources.compute import Keypair
from openimds.resources.errors import BadRequest, Forbidden

RSA_BITS = 2048
CERTIFICATE_LIFE = timedelta(days=3650)
UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""OID of the Windows user principal name. WinRM maps a certificate to a user by it."""


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    public_key: str
    private_key: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"GeneratedKey({self.fingerprint})"


def fingerprint(kind: str, public_key: str) -> str:
    """`4e:48:…`: the MD5 of an SSH key or the SHA-1 of a certificate. Raises BadRequest for other text."""
    return _certificate_fingerprint(public_key) if kind == "x509" else _ssh_fingerprint(public_key)


def generate_ssh_key() -> GeneratedKey:
    private = rsa.generate_private_key(65537, RSA_BITS)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    text = f"{public.decode()} Generated-by-Nova"
    return GeneratedKey(text, _pem(private), _ssh_fingerprint(text))


def generate_x509_key(user_id: str, now: datetime) -> GeneratedKey:
    """Generates a self-signed client certificate with the user as its principal."""
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
    """Decodes `ssh-ed25519 AAAA… comment`. Any algorithm is valid if the name in the key's data matches the name before it."""
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
    return _colons(certificate.fingerprint(hashes.SHA1()).hex())  # noqa: S303 - an identifier, not a protection


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _pem(private: rsa.RSAPrivateKey) -> str:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


def router(service: ComputeService) -> APIRouter:
    routes = ServiceRouter()
    keypairs = service.store.keypairs

    @routes.get("/os-keypairs")
    def list_keypairs(
        request: Request, caller: AuthenticatedCaller, version: Version, paging: Paging, user_id: str | None = None
    ) -> dict[str, Any]:
        found = paginate(keypairs.list(_owner(caller, version, user_id, "index")), paging, key=lambda item: item.name)
        shown: dict[str, Any] = {"keypairs": [{"keypair": _brief(item, version)} for item in found.items]}
        if found.more and version >= (2, 35):
            link = next_link(f"{service.url}/os-keypairs", request.query_params.multi_items(), found.items[-1].name)
            shown["keypairs_links"] = [link]
        return shown

    @routes.post("/os-keypairs")
    def create_keypair(caller: AuthenticatedCaller, version: Version, body: KeypairCreate) -> Response:
        fields = body.keypair
        _check_version(fields.model_fields_set, version)
        user_id = _owner(caller, version, fields.user_id, "create")
        now = datetime.now(UTC).replace(tzinfo=None)
        name = fields.name.strip()
        if not name:
            raise BadRequest("keypair.name", "must not be blank")
        key = _key(fields.type, fields.public_key, version, user_id, now)
        made = Keypair(
            user_id=user_id,
            name=name,
            type=fields.type,
            public_key=key.public_key,
            fingerprint=key.fingerprint,
            created_at=now,
        )
        keypairs.create(made)
        shown = {**_brief(made, version), "user_id": user_id}
        if key.private_key:
            shown["private_key"] = key.private_key
        return JSONResponse({"keypair": shown}, 201 if version >= (2, 2) else 200)

    @routes.get("/os-keypairs/{name}")
    def show_keypair(
        caller: AuthenticatedCaller, version: Version, name: str, user_id: str | None = None
    ) -> dict[str, Any]:
        found = keypairs.get(_owner(caller, version, user_id, "show"), name)
        kept = {
            "user_id": found.user_id,
            "created_at": found.created_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
            "deleted": False,
            "deleted_at": None,
            "updated_at": None,
            "id": 0,
        }
        return {"keypair": {**_brief(found, version), **kept}}

    @routes.delete("/os-keypairs/{name}")
    def delete_keypair(
        caller: AuthenticatedCaller, version: Version, name: str, user_id: str | None = None
    ) -> Response:
        keypairs.delete(_owner(caller, version, user_id, "delete"), name)
        return Response(status_code=204 if version >= (2, 2) else 202)

    return routes


def _owner(caller: RequestContext, version: Microversion, user_id: str | None, verb: str) -> str:
    """The id of the key's user: the caller, or the user that an administrator names (from 2.10 on)."""
    owner = caller.user_id if user_id is None or version < (2, 10) else user_id
    action = f"os_compute_api:os-keypairs:{verb}"
    if not caller.permits(action, {"user_id": owner}):
        raise Forbidden(f"Policy doesn't allow {action} to be performed for {'another' if user_id else 'this'} user.")
    return owner


def _check_version(named: set[str], version: Microversion) -> None:
    for field, since in (("type", Microversion(2, 2)), ("user_id", Microversion(2, 10))):
        if field in named and version < since:
            raise BadRequest(f"keypair.{field}", f"is known from microversion {since} on, this is {version}")
    if "public_key" not in named and version >= (2, 92):
        raise BadRequest("keypair.public_key", "keypair.public_key: is required from microversion 2.92 on")


def _key(kind: str, public_key: str | None, version: Microversion, user_id: str, now: datetime) -> GeneratedKey:
    if public_key is not None:
        text = public_key.strip()
        return GeneratedKey(text, "", fingerprint(kind, text))
    if version >= (2, 92):
        raise BadRequest("keypair.public_key", "keypair.public_key: is required from microversion 2.92 on")
    makers: dict[str, Callable[[], GeneratedKey]] = {
        "ssh": generate_ssh_key,
        "x509": lambda: generate_x509_key(user_id, now),
    }
    return makers[kind]()


def _brief(item: Keypair, version: Microversion) -> dict[str, Any]:
    shown = {"name": item.name, "public_key": item.public_key, "fingerprint": item.fingerprint}
    return {**shown, "type": item.type} if version >= (2, 2) else shown
