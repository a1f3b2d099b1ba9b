"""The options of every program and of the two APIs, in the field's own names and files."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from oslo_config import cfg, types

DEFAULT = "DEFAULT"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a configuration file: `[name]`, and what may stand in it."""

    name: str
    options: tuple[cfg.Opt, ...]
    help: str = ""


def old(name: str, section: str = DEFAULT) -> cfg.DeprecatedOpt:
    """An old spelling of an option: still taken, with a warning that tells the new one."""
    return cfg.DeprecatedOpt(name, group=section)


def seconds(*, minimum: float, maximum: float = 86400) -> types.Number:
    """A time that need not be whole."""
    return types.Float(min=minimum, max=maximum)


COMMON = Section(
    DEFAULT,
    (
        cfg.StrOpt(
            "state_path",
            default="/var/lib/openimds",
            help="The folder of everything this machine keeps. Programs that work together name the same one.",
        ),
        cfg.StrOpt(
            "host",
            default=socket.gethostname(),
            sample_default="<this machine's name>",
            regex=r"^[A-Za-z0-9._-]{1,255}$",
            help="This machine's name in the cloud: agents do the work that is bound to it.",
        ),
        cfg.StrOpt(
            "namespace_prefix",
            default="",
            regex=r"^[a-z0-9-]{0,32}$",
            help="Stands before the names of all namespaces, and keeps two systems on one machine apart.",
        ),
        cfg.BoolOpt("debug", default=False, help="Log more."),
        cfg.StrOpt(
            "log_format",
            default="console",
            choices=[("console", "lines for people"), ("json", "one JSON object a line")],
            help="The form of the log on stderr.",
        ),
    ),
)

METRICS = Section(
    "metrics",
    (
        cfg.StrOpt("listen", default="127.0.0.1", help="Where /metrics and /healthcheck are served."),
        cfg.PortOpt("port", default=0, help="0: nowhere."),
    ),
    "An own listener for monitoring; guests never reach it.",
)

DATABASE = Section(
    "database",
    (
        cfg.StrOpt(
            "connection",
            default="sqlite:///$state_path/openimds.sqlite",
            secret=True,
            deprecated_opts=[old("sql_connection"), old("sql_connection", "database")],
            help="The store, as SQLAlchemy has them: sqlite:////path, or postgresql+psycopg://user:password@host/name.",
        ),
    ),
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


def keystone_section(name: str, *, purpose: str, with_2014_names: bool) -> Section:
    """A section of keystoneauth's options. The spelling of 2014 stood in [DEFAULT]: admin_user, admin_tenant_name …"""

    def names(*spellings: str) -> list[cfg.DeprecatedOpt]:
        here = [old(spelling, name) for spelling in spellings]
        return [*here, *(old(spelling) for spelling in spellings)] if with_2014_names else here

    auth_url_names = [old("auth_url")] if with_2014_names else []
    return Section(
        name,
        (
            cfg.URIOpt(
                "auth_url",
                schemes=["http", "https"],
                deprecated_opts=auth_url_names,
                help="The identity service, http://controller:5000/v3. An address that ends in /v2.0 is led to /v3.",
            ),
            cfg.StrOpt(
                "auth_type",
                default="password",
                choices=["password", "v3password"],
                deprecated_opts=[old("auth_plugin", name)],
                help="How to prove who we are.",
            ),
            cfg.StrOpt(
                "username",
                deprecated_opts=[old("user_name", name), old("user-name", name), *names("admin_user")],
                help="The service user.",
            ),
            cfg.StrOpt("password", secret=True, deprecated_opts=names("admin_password"), help="Its password."),
            cfg.StrOpt(
                "project_name",
                default="service",
                deprecated_opts=[old("tenant_name", name), old("tenant-name", name), *names("admin_tenant_name")],
                help="The project it acts in.",
            ),
            cfg.StrOpt("user_domain_name", default="Default", help="The user's domain."),
            cfg.StrOpt("project_domain_name", default="Default", help="The project's domain."),
            cfg.StrOpt("region_name", deprecated_opts=names("auth_region"), help="Take services of this region."),
            cfg.StrOpt("cafile", help="The certificate authorities that vouch for the identity service."),
            cfg.BoolOpt("insecure", default=False, help="Take any certificate."),
        ),
        purpose,
    )


VENDORDATA_AUTH = keystone_section(
    "vendordata_dynamic_auth",
    purpose="Who DynamicJSON's requests are authenticated as; without auth_url they carry no token.",
    with_2014_names=False,
)
