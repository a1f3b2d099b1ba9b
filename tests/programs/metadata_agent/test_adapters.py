"""The TLS connection to the metadata API."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from openimds.agents.metadata.protocols import UpstreamAwayError
from openimds.config import MetadataAgentConfig, load_metadata_agent
from openimds.http.client.pool import Pool
from openimds.programs.metadata_agent.adapters import PooledUpstream, upstream_of
from openimds.runtime.lifecycle import StartupError


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """The files of a self-signed certificate for 127.0.0.1 and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(files[0]), str(files[1])


@pytest.fixture
def config(tmp_path: Path) -> MetadataAgentConfig:
    file = tmp_path / "metadata_agent.ini"
    file.write_text(
        "[DEFAULT]\nnova_metadata_host = 127.0.0.1\nnova_metadata_protocol = https\nmetadata_proxy_shared_secret = s\n"
        "[keystone_authtoken]\nauth_url = http://127.0.0.1:5000/v3\nusername = neutron\npassword = p\n"
    )
    return load_metadata_agent([str(file)])


async def response_of(
    config: MetadataAgentConfig, server_files: tuple[str, str], client_ca: str | None = None
) -> bytes:
    """The response of a TLS server with the certificate of `server_files`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server_files)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsealed")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(upstream_of(replace(config, nova_metadata_port=port)))
    try:
        return (await PooledUpstream(pool).request("GET", b"/", (), b"")).body
    finally:
        await pool.close()
        server.close()


def test_server_with_a_trusted_certificate_is_accepted(config, tmp_path):
    files = make_certificate(tmp_path, "server")
    assert uvloop.run(response_of(replace(config, auth_ca_cert=files[0]), files)) == b"sealed"


def test_server_with_an_untrusted_certificate_is_accepted_only_with_insecure(config, tmp_path):
    files = make_certificate(tmp_path, "server")
    with pytest.raises(UpstreamAwayError, match="certificate"):
        uvloop.run(response_of(config, files))
    assert uvloop.run(response_of(replace(config, nova_metadata_insecure=True), files)) == b"sealed"


def test_client_certificate_is_presented(config, tmp_path):
    files = make_certificate(tmp_path, "server")
    client_files = make_certificate(tmp_path, "client")
    without_client_certificate = replace(config, auth_ca_cert=files[0])
    with_client_certificate = replace(
        without_client_certificate, nova_client_cert=client_files[0], nova_client_priv_key=client_files[1]
    )
    assert uvloop.run(response_of(with_client_certificate, files, client_ca=client_files[0])) == b"sealed"
    with pytest.raises(UpstreamAwayError):
        uvloop.run(response_of(without_client_certificate, files, client_ca=client_files[0]))


def test_unreadable_certificate_is_a_startup_error(config, tmp_path):
    with pytest.raises(StartupError, match="auth_ca_cert"):
        upstream_of(replace(config, auth_ca_cert=str(tmp_path / "none")))
