"""Prints the metadata read by botocore, as JSON."""

from __future__ import annotations

import json

from botocore.session import Session
from botocore.utils import IMDSFetcher, InstanceMetadataFetcher, InstanceMetadataRegionFetcher

PATHS = ("instance-id", "local-ipv4", "instance-type", "placement/availability-zone")

config = {"ec2_metadata_v1_disabled": True}  # a request without a session token is an error
fetcher = IMDSFetcher(timeout=60, num_attempts=2, config=config)
token = fetcher._fetch_metadata_token()
found = {path: fetcher._get_request(f"latest/meta-data/{path}", None, token=token).text for path in PATHS}
found["has-token"] = token is not None
found["credentials"] = InstanceMetadataFetcher(timeout=60, config=config).retrieve_iam_role_credentials()
found["region"] = InstanceMetadataRegionFetcher(timeout=60, config=config).retrieve_region()
found["session-credentials"] = Session().get_credentials() is not None
print(json.dumps(found))
