"""Prints the metadata read by the EC2 collector of os-collect-config, as JSON."""

from __future__ import annotations

import json

from os_collect_config import collect, ec2

collect.setup_conf()
ec2.CONF.set_override("cachedir", "/nonexistent")
((_, found),) = ec2.Collector().collect()
print(json.dumps(found))
