"""The TLS context of the metadata API's listener, from the files of `[wsgi]`."""

from __future__ import annotations

import ssl

from openimds.config import TlsFiles
from openimds.runtime.lifecycle import StartupError


def server_context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """Returns the context (TLS 1.2 or newer). None without TLS. Raises StartupError with the unusable file."""
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
    """Loads the certificate. A context in use applies it to new connections. Raises StartupError."""
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise StartupError(
            f"[wsgi] ssl_cert_file {files.certificate} and ssl_key_file {files.key} cannot be used: {error}; they must "
            "be PEM, readable, without a passphrase, and belong together"
        ) from None


def _no_password() -> str:
    # Without a password callback OpenSSL reads from the terminal.
    return ""
