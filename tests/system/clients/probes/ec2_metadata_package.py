"""Prints the metadata read by the package ec2-metadata, as JSON."""

from __future__ import annotations

import json

from ec2_metadata import ec2_metadata as instance

keys = instance.public_keys
found = {
    "ami-id": instance.ami_id,
    "instance-id": instance.instance_id,
    "instance-type": instance.instance_type,
    "launch-index": instance.ami_launch_index,
    "zone": instance.availability_zone,
    "hostname": instance.private_hostname,
    "local-ipv4": instance.private_ipv4,
    "public-ipv4": instance.public_ipv4,
    "reservation-id": instance.reservation_id,
    "user-data": (instance.user_data or b"").decode(),
    "tags": dict(instance.tags),
    "iam": instance.iam_info,
    "spot": instance.spot_instance_action,
}
print(json.dumps(found))
