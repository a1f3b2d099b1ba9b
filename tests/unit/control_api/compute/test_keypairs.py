from __future__ import annotations

import pytest

from openimds.control_api.compute.keypairs import fingerprint, generate_ssh_key
from openimds.resources.errors import BadRequest

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC3Jx4s4KpkVRTAB0mZ5UuO1nH3sMYXwQyZ9mXW3kUPv"


def test_fingerprint_does_not_depend_on_the_comment() -> None:
    assert (
        fingerprint("ssh", ED25519)
        == fingerprint("ssh", ED25519 + " me at home")
        == ("61:04:35:d5:1a:f3:c8:b4:32:00:12:c2:fb:be:fa:43")
    )


def test_generated_key_is_not_in_the_repr() -> None:
    key = generate_ssh_key()
    assert "PRIVATE" in key.private_key
    assert "PRIVATE" not in repr(key)


@pytest.mark.parametrize("kind", ["ssh", "x509"])
@pytest.mark.parametrize("text", ["", "x", "ssh-rsa", "ssh-rsa x", "ssh-rsa AAAA", f"{ED25519}\n{ED25519}"])
def test_malformed_public_key_is_rejected(kind: str, text: str) -> None:
    with pytest.raises(BadRequest, match="public_key"):
        fingerprint(kind, text)
