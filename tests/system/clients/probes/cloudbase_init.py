"""Prints the metadata read by cloudbase-init, as JSON. With a password, posts it twice and prints the results."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import requests
from cloudbaseinit.metadata.services.ec2service import EC2Service
from cloudbaseinit.metadata.services.httpservice import HttpService
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key


def read_by(service: Any) -> dict[str, Any]:
    return {
        "loaded": service.load(),
        "instance-id": service.get_instance_id(),
        "hostname": service.get_host_name(),
        "public-keys": service.get_public_keys(),
        "user-data": service.get_user_data().decode(),
    }


def network_of(service: HttpService) -> dict[str, Any]:
    details = service.get_network_details_v2()
    return {"macs": [link.mac_address for link in details.links], "mtus": [link.mtu for link in details.links]}


def posted(service: HttpService, password: bytes) -> list[Any]:
    """Posts the password, encrypted with the owner's key as by the plug-in of cloudbase-init."""
    key = load_ssh_public_key(service.get_user_pwd_encryption_key().encode())
    assert isinstance(key, RSAPublicKey)
    encrypted = base64.b64encode(key.encrypt(password, PKCS1v15()))
    before = [service.can_post_password, service.is_password_set]
    return [*before, service.post_password(encrypted), service.is_password_set, status_of_another(service)]


def status_of_another(service: HttpService) -> int:
    """The status of a POST without the five retries."""
    try:
        service._post_data(service._get_password_path(), b"another")
    except requests.HTTPError as error:
        return error.response.status_code if error.response is not None else 0
    return 200


openstack = HttpService()
if sys.argv[1:]:
    openstack.load()
    print(json.dumps(posted(openstack, sys.argv[1].encode())))
else:
    found = {"openstack": read_by(openstack), "ec2": read_by(EC2Service())}
    print(json.dumps(found | {"network": network_of(openstack)}))
