"""The bytes of a guest's connection, and their check."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from tests.security.instances import GUESTS, Guest
from tests.security.responses import Answer, answers


@dataclass
class Transcript:
    """The sent and received bytes of one connection."""

    client: Guest | None
    raw: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    """Whether the server has closed the connection, so that all responses must be complete."""

    def check(self) -> None:
        """No response contains data of another instance, and h11 parses all responses."""
        for guest in GUESTS:
            if guest is not self.client:
                leaked = [secret for secret in guest.secrets if secret in self.raw]
                assert not leaked, (
                    f"{self.client and self.client.label} received {leaked} for {bytes(self.sent[:500])!r}"
                )
        if self.is_whole:
            self.answers()

    def answers(self) -> list[Answer]:
        method = bytes(self.sent[:32]).split(b" ")[0].decode("latin-1")
        return answers(bytes(self.raw), [method])


class Connection:
    """A connection that records its bytes."""

    def __init__(self, raw: socket.socket, transcript: Transcript) -> None:
        self.socket = raw
        self.transcript = transcript

    def send(self, data: bytes) -> None:
        self.transcript.sent += data
        self.socket.sendall(data)

    def read(self) -> bytes:
        """Reads the next bytes. Empty at the end of the stream."""
        data = self.socket.recv(65536)
        self.transcript.raw += data
        self.transcript.is_whole = self.transcript.is_whole or not data
        return data

    def finish(self) -> bytes:
        """Reads until the server closes the connection. Returns all received bytes."""
        try:
            while self.read():
                pass
        except ConnectionResetError:
            self.transcript.is_whole = True
        self.socket.close()
        return bytes(self.transcript.raw)


def send_and_read(line: Connection, data: bytes) -> list[Answer]:
    line.send(data)
    line.finish()
    return line.transcript.answers()
