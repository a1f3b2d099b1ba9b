"""The options of documents and of access to them, for both APIs, and the strict checks of requests from instances."""

from __future__ import annotations

from oslo_config import cfg, types

from openimds.config.options import DEFAULT, Section

DOCUMENTS = Section(
    "api",
    (
        cfg.StrOpt(
            "dhcp_domain",
            default="novalocal",
            help="The domain that is appended to host names. Empty: none.",
            deprecated_group=DEFAULT,
        ),
        cfg.ListOpt(
            "vendordata_providers",
            default=["StaticJSON"],
            item_type=types.String(choices=["StaticJSON", "DynamicJSON"]),
            help="The sources of vendor data.",
            deprecated_group=DEFAULT,
        ),
        cfg.StrOpt(
            "vendordata_jsonfile_path",
            help="The JSON file that StaticJSON serves as vendor_data.json.",
            deprecated_group=DEFAULT,
        ),
    ),
)

IMDS = Section(
    "imds",
    (
        cfg.StrOpt(
            "http_tokens",
            default="optional",
            choices=[
                ("optional", "requests with and without a session token are served"),
                ("required", "requests to the EC2 tree without a token get 401"),
                ("off", "no tokens, as in nova"),
            ],
            help="Session tokens (IMDSv2) in the EC2 tree. The property imds:HttpTokens of a server overrides it.",
        ),
        cfg.StrOpt(
            "openstack_tokens",
            default="optional",
            choices=["optional", "required"],
            help="Session tokens in the /openstack tree. If they are required, cloud-init's OpenStack data source fails, "
            "because it sends no tokens. Property: imds:OpenStackTokens.",
        ),
        cfg.BoolOpt(
            "enforce_tokens",
            default=False,
            help="The properties of a server can only make the options of this section stricter, not weaker: tokens, "
            "root_only, and the end of user data.",
        ),
        cfg.BoolOpt(
            "http_endpoint",
            default=True,
            help="False: every request gets 403, except for servers with the property imds:HttpEndpoint=enabled.",
        ),
        cfg.IntOpt(
            "http_put_response_hop_limit",
            default=1,
            min=1,
            max=64,
            help="The IP TTL of the response with a session token. Property: imds:HttpPutResponseHopLimit.",
        ),
        cfg.BoolOpt(
            "instance_metadata_tags",
            default=False,
            help="Serve the metadata of a server at meta-data/tags/instance/. Property: imds:InstanceMetadataTags.",
        ),
        cfg.BoolOpt(
            "root_only",
            default=False,
            help="Serve only requests from a source port below 1024, which requires root in the instance. Other "
            "requests get 403, including those of cloud-init. Property: imds:RootOnly.",
        ),
        cfg.IntOpt(
            "user_data_minutes",
            default=0,
            min=0,
            max=1440,
            help="Minutes after the launch of a server for which its user data can be read. Later requests get 403. 0: no "
            "limit. Property: imds:UserDataMinutes.",
        ),
    ),
    "The access of instances to metadata, unless the properties of a server override it.",
)


ALLOWED_HOSTS = ["169.254.169.254", "[fe80::a9fe:a9fe]"]


def strict_options() -> tuple[cfg.Opt, ...]:
    """The options of the checks for requests that an attacker causes a browser or proxy in the instance to send (SSRF)."""
    return (
        cfg.BoolOpt(
            "strict_requests",
            default=False,
            help="Reject (403) requests that an attacker could make a browser or proxy in the instance send: with a Host "
            "outside allowed_hosts, with X-Forwarded-For or similar headers, or with headers that name the instance. "
            "Off: these headers are ignored.",
        ),
        cfg.ListOpt(
            "allowed_hosts",
            default=ALLOWED_HOSTS,
            help="The permitted hosts with strict_requests, without port.",
        ),
    )


GUEST_REQUESTS = Section(
    "guest_requests",
    strict_options(),
    "The checks of requests that come directly from instances: in the metadata API if service_metadata_proxy is off, and "
    "in the metadata agent if metadata_proxy is `direct`.",
)
