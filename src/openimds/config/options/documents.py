"""The options of what instances read, and how they may read it: of both APIs.

How guests' own requests are taken, in whichever program they meet first.
"""

from __future__ import annotations

from oslo_config import cfg, types

from openimds.config.options import DEFAULT, Section

DOCUMENTS = Section(
    "api",
    (
        cfg.StrOpt(
            "dhcp_domain",
            default="novalocal",
            help="Follows a host name, after a dot; empty: nothing does.",
            deprecated_group=DEFAULT,
        ),
        cfg.ListOpt(
            "vendordata_providers",
            default=["StaticJSON"],
            item_type=types.String(choices=["StaticJSON", "DynamicJSON"]),
            help="Where vendor data comes from.",
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
                ("optional", "reads with a session token and without one are answered"),
                ("required", "reads in the EC2 tree without a token get 401"),
                ("off", "there are no tokens, as in nova; for metadata agents that do not pass them on"),
            ],
            help="Session tokens (IMDSv2) in the EC2 tree. A server says otherwise by its property imds:HttpTokens.",
        ),
        cfg.StrOpt(
            "openstack_tokens",
            default="optional",
            choices=["optional", "required"],
            help="The same for /openstack, whose clients know no tokens: cloud-init's OpenStack source finds nothing "
            "where they are required. Property: imds:OpenStackTokens.",
        ),
        cfg.BoolOpt(
            "enforce_tokens",
            default=False,
            help="A server's properties may ask for more than the options here, never for less: of tokens, of root, of "
            "an end to user data.",
        ),
        cfg.BoolOpt(
            "http_endpoint",
            default=True,
            help="False: servers get 403 for everything, but those with the property imds:HttpEndpoint=enabled.",
        ),
        cfg.IntOpt(
            "http_put_response_hop_limit",
            default=1,
            min=1,
            max=64,
            help="So many hops may the answer that carries a token go. Property: imds:HttpPutResponseHopLimit.",
        ),
        cfg.BoolOpt(
            "instance_metadata_tags",
            default=False,
            help="Servers read their own metadata at meta-data/tags/instance/. Property: imds:InstanceMetadataTags.",
        ),
        cfg.BoolOpt(
            "root_only",
            default=False,
            help="Only requests from a source port below 1024 are answered, which takes root in the guest; others get "
            "403, cloud-init's among them. Property: imds:RootOnly.",
        ),
        cfg.IntOpt(
            "user_data_minutes",
            default=0,
            min=0,
            max=1440,
            help="So many minutes after its launch a server's user data are closed: 403. 0: never. Property: "
            "imds:UserDataMinutes.",
        ),
    ),
    "How instances' metadata may be read, where their servers' properties say nothing.",
)


ALLOWED_HOSTS = ["169.254.169.254", "[fe80::a9fe:a9fe]"]


def strict_options() -> tuple[cfg.Opt, ...]:
    """What browsers and proxies inside a guest may be made to send."""
    return (
        cfg.BoolOpt(
            "strict_requests",
            default=False,
            help="Refuse (403) what a browser or a proxy in a guest may be made to send: another Host than "
            "allowed_hosts, X-Forwarded-For and its kind, headers that say who asks. Off: these are ignored.",
        ),
        cfg.ListOpt(
            "allowed_hosts",
            default=ALLOWED_HOSTS,
            help="With strict_requests: the hosts that guests may name, without port.",
        ),
    )


GUEST_REQUESTS = Section(
    "guest_requests",
    strict_options(),
    "How guests' own requests are taken: by the metadata API where service_metadata_proxy is off, by the metadata agent "
    "where metadata_proxy is `direct`.",
)
