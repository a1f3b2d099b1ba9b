"""The metadata API's TLS: the files of `[wsgi]` → a context for its listeners."""

from __future__ import annotations

import ssl

from openimds.config import TlsFiles
from openimds.runtime.lifecycle import StartupError


def server_context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """None without TLS. TLS 1.2 and newer. Raises CannotStartError with the file that cannot be used."""
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, files)
    if files.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(files.client_authority)
        except (OSError, ssl.SSLError) as error:
            raise StartupError(f"[wsgi] ssl_ca_file: {files.client_authority} cannot be used: {error}") from None
    return context


def load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Also into a context in use: connections from now on are shown the new certificate. Raises CannotStartError."""
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise StartupError(
            f"[wsgi] ssl_cert_file {files.certificate} and ssl_key_file {files.key} cannot be used: {error}; they must "
            "be PEM, readable, without a passphrase, and belong together"
        ) from None


def _no_password() -> str:
    # Without it OpenSSL would ask the terminal.
    return ""
