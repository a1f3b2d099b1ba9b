"""The metadata API's options, in nova's names and files.

The control API's options.
"""

from __future__ import annotations

from oslo_config import cfg

from openimds.config.options import DEFAULT, Section, old, seconds
from openimds.config.options.keystone import keystone_section

NOVA = Section(
    DEFAULT,
    (
        cfg.ListOpt(
            "enabled_apis",
            default=["osapi_compute", "metadata"],
            help="The metadata API serves if `metadata` is one of these; the other names are not read.",
        ),
        cfg.StrOpt("metadata_listen", default="0.0.0.0", help="The address the metadata API listens on."),
        cfg.PortOpt("metadata_listen_port", default=8775, min=1, help="Its port."),
        cfg.IntOpt("metadata_workers", default=1, min=1, max=256, help="How many processes serve it."),
        cfg.ListOpt(
            "enabled_ssl_apis",
            default=[],
            help="The metadata API speaks TLS if `metadata` is one of these; the other names are not read.",
        ),
    ),
)

WSGI = Section(
    "wsgi",
    (
        cfg.StrOpt(
            "ssl_cert_file",
            deprecated_group=DEFAULT,
            help="The metadata API's certificate, PEM, with those between it and its authority.",
        ),
        cfg.StrOpt("ssl_key_file", deprecated_group=DEFAULT, help="Its private key, PEM."),
        cfg.StrOpt(
            "ssl_ca_file",
            deprecated_group=DEFAULT,
            help="If set, only clients with a certificate of one of these authorities are served.",
        ),
    ),
    "TLS of the metadata API, where enabled_ssl_apis says so.",
)

NOVA_NEUTRON = Section(
    "neutron",
    (
        cfg.BoolOpt(
            "service_metadata_proxy",
            default=False,
            deprecated_opts=[old("service_neutron_metadata_proxy"), old("service_metadata_proxy")],
            help="True: requests come signed from a metadata agent. False: an instance is known by its address.",
        ),
        cfg.StrOpt(
            "metadata_proxy_shared_secret",
            default="",
            secret=True,
            deprecated_opts=[
                old("neutron_metadata_proxy_shared_secret"),
                old("metadata_proxy_shared_secret"),
            ],
            help="Checks the agents' signatures: the same text as metadata_proxy_shared_secret in metadata_agent.ini.",
        ),
        cfg.StrOpt(
            "metadata_proxy_shared_secret_previous",
            default="",
            secret=True,
            help="Taken as well, while the secret is being changed on all hosts.",
        ),
        cfg.BoolOpt(
            "allow_empty_shared_secret",
            default=False,
            help="Start even with an empty secret, which anybody who reaches the port can sign with.",
        ),
    ),
)

NOVA_API = Section(
    "api",
    (
        cfg.ListOpt(
            "vendordata_dynamic_targets",
            default=[],
            help="What DynamicJSON asks: name@url, name@url.",
            deprecated_group=DEFAULT,
        ),
        cfg.Opt(
            "vendordata_dynamic_connect_timeout",
            default=5,
            type=seconds(minimum=0.1),
            help="Seconds to wait for a connection to a target.",
            deprecated_group=DEFAULT,
        ),
        cfg.Opt(
            "vendordata_dynamic_read_timeout",
            default=5,
            type=seconds(minimum=0),
            help="Seconds to wait for a target's answer.",
            deprecated_group=DEFAULT,
        ),
        cfg.BoolOpt(
            "vendordata_dynamic_failure_fatal",
            default=False,
            help="True: a failing target fails the document. False: its part is {}.",
        ),
        cfg.StrOpt(
            "vendordata_dynamic_ssl_certfile",
            help="The certificate authorities that vouch for the targets.",
            deprecated_group=DEFAULT,
        ),
        cfg.IntOpt(
            "metadata_cache_expiration",
            default=15,
            min=0,
            help="Taken for nova's sake. Answers here are never older than the store, whatever this says.",
            deprecated_group=DEFAULT,
        ),
        cfg.BoolOpt(
            "local_metadata_per_cell",
            default=False,
            help="Taken for nova's sake, without effect: there are no cells.",
        ),
    ),
)

VENDORDATA_AUTH = keystone_section(
    "vendordata_dynamic_auth",
    purpose="Who DynamicJSON's requests are authenticated as; without auth_url they carry no token.",
    with_2014_names=False,
)


CONTROL_API = Section(
    "control_api",
    (
        cfg.StrOpt("listen", default="127.0.0.1", help="The address the control API listens on."),
        cfg.PortOpt("port", default=5000, min=1, help="Its port."),
        cfg.URIOpt(
            "public_url",
            schemes=["http", "https"],
            sample_default="http://<listen>:<port>",
            help="What the URLs in the catalog begin with, as clients reach this API.",
        ),
        cfg.StrOpt("region", default="RegionOne", help="The region's name in the catalog."),
        cfg.StrOpt(
            "token_keys_file",
            default="$state_path/etc/token_keys",
            help="Fernet keys that tokens are signed with, one a line, the newest first. All replicas share it.",
        ),
        cfg.IntOpt("token_expiration_seconds", default=3600, min=60, max=604800, help="How long a token is valid."),
        cfg.StrOpt("images_dir", default="$state_path/images", help="Where image data is kept."),
        cfg.Opt(
            "agent_down_time",
            default=20,
            type=seconds(minimum=1),
            help="An agent that was not heard of for so many seconds is shown as down, and gets no new servers.",
        ),
        cfg.IntOpt(
            "change_retention_seconds",
            default=3600,
            min=60,
            help="How long deletions are remembered for agents that were away; one that was away longer lists again.",
        ),
    ),
    "The control API: what the openstack client and the agents talk to.",
)
