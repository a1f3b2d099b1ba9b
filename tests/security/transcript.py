"""What a guest's connection was told, kept byte for byte, and judged."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from tests.security.cloud import GUESTS, Guest
from tests.security.opinion import Answer, answers


@dataclass
class Transcript:
    """What one connection was told."""

    asker: Guest | None
    raw: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    """The server closed: what came must be complete answers."""

    def judge(self) -> None:
        """No answer has another instance's canary in it, and h11 can read what came."""
        for guest in GUESTS:
            if guest is not self.asker:
                told = [secret for secret in guest.secrets if secret in self.raw]
                assert not told, f"{self.asker and self.asker.label} was told {told} by {bytes(self.sent[:500])!r}"
        if self.is_whole:
            self.answers()

    def answers(self) -> list[Answer]:
        method = bytes(self.sent[:32]).split(b" ")[0].decode("latin-1")
        return answers(bytes(self.raw), [method])


class Line:
    """A guest's connection."""

    def __init__(self, raw: socket.socket, transcript: Transcript) -> None:
        self.socket = raw
        self.transcript = transcript

    def send(self, data: bytes) -> None:
        self.transcript.sent += data
        self.socket.sendall(data)

    def read(self) -> bytes:
        """The next bytes; empty at the end."""
        data = self.socket.recv(65536)
        self.transcript.raw += data
        self.transcript.is_whole = self.transcript.is_whole or not data
        return data

    def finish(self) -> bytes:
        """All that is answered until the server closes."""
        try:
            while self.read():
                pass
        except ConnectionResetError:
            self.transcript.is_whole = True
        self.socket.close()
        return bytes(self.transcript.raw)


def ask_whole(line: Line, data: bytes) -> list[Answer]:
    line.send(data)
    line.finish()
    return line.transcript.answers()
