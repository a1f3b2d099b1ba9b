"""Two instances that are easily confused, and the texts that identify the data of each.

Their ids, projects, addresses, names and EC2 ids differ in one digit. All values of an instance contain its canary.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from openimds.guest_identity.signature import sign

SECRET = "the shared secret"
NETWORK = "2a9a3b1e-6b8e-4b8f-9d53-3c1c0a5c7e11"


@dataclass(frozen=True)
class Guest:
    """An instance that sends requests."""

    label: str
    uuid: str
    project_id: str
    address: str
    """An address of the loopback interface, so that a test can send from it."""
    number: int

    @property
    def canary(self) -> str:
        return f"canary-of-{self.label}"

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The texts that no response to another instance may contain."""
        spelled = (self.canary, self.canary.upper(), self.uuid, self.uuid.replace("-", ""), self.project_id)
        return (*(text.encode() for text in spelled), base64.b64encode(self.user_data)[:24])

    @property
    def user_data(self) -> bytes:
        return f"{self.canary}: #!/bin/sh\n# {self.canary}\n".encode()

    @property
    def claim(self) -> dict[str, str]:
        """The identity headers of a metadata agent for this instance."""
        return {
            "X-Forwarded-For": self.address,
            "X-Instance-ID": self.uuid,
            "X-Tenant-ID": self.project_id,
            "X-Instance-ID-Signature": sign(SECRET, self.uuid),
        }

    @property
    def document(self) -> dict[str, Any]:
        mac = f"fa:16:3e:00:00:0{self.number}"
        return {
            "uuid": self.uuid,
            "project_id": self.project_id,
            "hostname": f"{self.canary}-host",
            "display_name": f"{self.canary} display",
            "flavor_name": f"{self.canary}.flavor",
            "availability_zone": f"{self.canary}-zone",
            "metadata": {"owner": self.canary, self.canary: "yes"},
            "user_data_b64": base64.b64encode(self.user_data).decode(),
            "key_name": f"{self.canary}-key",
            "key_type": "ssh",
            "public_key": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI {self.canary}",
            "ec2_ids": {"instance_id": f"i-0000000{self.number}", "ami_id": f"ami-0000000{self.number}"},
            "reservation_id": f"r-{self.canary}",
            "security_groups": [{"name": f"{self.canary}-group"}],
            "neutron_ports": [
                {
                    "id": f"ce531f90-199f-48c0-816c-13e38010b44{self.number}",
                    "network_id": NETWORK,
                    "mac_address": mac,
                    "fixed_ips": [{"ip_address": self.address, "subnet_id": "s"}],
                }
            ],
        }


ALPHA = Guest("alpha", "d8e02d56-2648-49a3-bf97-6be8f1204f38", "6f70656e737461636b2d70726f6a3031", "127.0.7.5", 1)
BETA = Guest("beta", "d8e02d56-2648-49a3-bf97-6be8f1204f39", "6f70656e737461636b2d70726f6a3032", "127.0.7.50", 2)
GUESTS = (ALPHA, BETA)
UNKNOWN_ADDRESS = "127.0.7.51"
"""An address without an instance."""
SHARED_ADDRESS = "127.0.7.52"
"""An address of two ports on one network."""


def instances_document() -> dict[str, Any]:
    return {
        "instances": [guest.document for guest in GUESTS],
        "metadata_proxy_shared_secret": SECRET,
        "network_id": NETWORK,
    }


def request(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """The bytes of a request. It closes the connection unless `headers` contain `Connection`."""
    lines = {"Host": "169.254.169.254", "Connection": "close", **(headers or {})}
    if body and "Content-Length" not in lines:
        lines["Content-Length"] = str(len(body))
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + body
