"""The options of the metadata API, with the names that nova uses, and of the control API."""

from __future__ import annotations

from oslo_config import cfg

from openimds.config.options import DEFAULT, Section, deprecated, seconds
from openimds.config.options.keystone import keystone_section

NOVA = Section(
    DEFAULT,
    (
        cfg.ListOpt(
            "enabled_apis",
            default=["osapi_compute", "metadata"],
            help="The metadata API runs only if the list contains `metadata`. Other names are ignored.",
        ),
        cfg.StrOpt("metadata_listen", default="0.0.0.0", help="The address that the metadata API listens on."),
        cfg.PortOpt("metadata_listen_port", default=8775, min=1, help="The port that the metadata API listens on."),
        cfg.IntOpt("metadata_workers", default=1, min=1, max=256, help="The number of processes of the metadata API."),
        cfg.ListOpt(
            "enabled_ssl_apis",
            default=[],
            help="The metadata API uses TLS if the list contains `metadata`. Other names are ignored.",
        ),
    ),
)

WSGI = Section(
    "wsgi",
    (
        cfg.StrOpt(
            "ssl_cert_file",
            deprecated_group=DEFAULT,
            help="The certificate of the metadata API with its intermediate certificates, as a PEM file.",
        ),
        cfg.StrOpt("ssl_key_file", deprecated_group=DEFAULT, help="The private key of the certificate, as a PEM file."),
        cfg.StrOpt(
            "ssl_ca_file",
            deprecated_group=DEFAULT,
            help="The CA certificates for client certificates. If set, every client needs such a certificate.",
        ),
    ),
    "TLS of the metadata API, which enabled_ssl_apis switches on.",
)

NOVA_NEUTRON = Section(
    "neutron",
    (
        cfg.BoolOpt(
            "service_metadata_proxy",
            default=False,
            deprecated_opts=[deprecated("service_neutron_metadata_proxy"), deprecated("service_metadata_proxy")],
            help="True: a metadata agent signs the requests. False: an instance is identified by its address.",
        ),
        cfg.StrOpt(
            "metadata_proxy_shared_secret",
            default="",
            secret=True,
            deprecated_opts=[
                deprecated("neutron_metadata_proxy_shared_secret"),
                deprecated("metadata_proxy_shared_secret"),
            ],
            help="The secret that verifies signatures. It must equal metadata_proxy_shared_secret in metadata_agent.ini.",
        ),
        cfg.StrOpt(
            "metadata_proxy_shared_secret_previous",
            default="",
            secret=True,
            help="A second accepted secret, for the time in which the secret changes on all hosts.",
        ),
        cfg.BoolOpt(
            "allow_empty_shared_secret",
            default=False,
            help="Start even if the secret is empty. Every client that reaches the port can then sign requests.",
        ),
    ),
)

NOVA_API = Section(
    "api",
    (
        cfg.ListOpt(
            "vendordata_dynamic_targets",
            default=[],
            help="The targets of DynamicJSON in the form name@url, name@url.",
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
            help="Seconds to wait for the response of a target.",
            deprecated_group=DEFAULT,
        ),
        cfg.BoolOpt(
            "vendordata_dynamic_failure_fatal",
            default=False,
            help="True: a failed target fails the document. False: its part of the document is {}.",
        ),
        cfg.StrOpt(
            "vendordata_dynamic_ssl_certfile",
            help="The CA certificates that verify the targets, as a PEM file.",
            deprecated_group=DEFAULT,
        ),
        cfg.IntOpt(
            "metadata_cache_expiration",
            default=15,
            min=0,
            help="Accepted for compatibility with nova, without effect: responses are never older than the store.",
            deprecated_group=DEFAULT,
        ),
        cfg.BoolOpt(
            "local_metadata_per_cell",
            default=False,
            help="Accepted for compatibility with nova, without effect: openimds has no cells.",
        ),
    ),
)

VENDORDATA_AUTH = keystone_section(
    "vendordata_dynamic_auth",
    purpose="The credentials for DynamicJSON requests. Without auth_url the requests carry no token.",
    with_2014_names=False,
)


CONTROL_API = Section(
    "control_api",
    (
        cfg.StrOpt("listen", default="127.0.0.1", help="The address that the control API listens on."),
        cfg.PortOpt("port", default=5000, min=1, help="The port that the control API listens on."),
        cfg.URIOpt(
            "public_url",
            schemes=["http", "https"],
            sample_default="http://<listen>:<port>",
            help="The prefix of the URLs in the catalog: the address at which clients reach this API.",
        ),
        cfg.StrOpt("region", default="RegionOne", help="The name of the region in the catalog."),
        cfg.StrOpt(
            "token_keys_file",
            default="$state_path/etc/token_keys",
            help="The file of Fernet keys for tokens, one per line, the newest first. All replicas must have the same file.",
        ),
        cfg.IntOpt(
            "token_expiration_seconds", default=3600, min=60, max=604800, help="The validity of a token in seconds."
        ),
        cfg.StrOpt("images_dir", default="$state_path/images", help="The folder of image data."),
        cfg.IntOpt("image_size_cap", default=32 * 1024**3, min=1, help="The maximum size of an image in bytes."),
        cfg.IntOpt("image_count_total", default=100, min=-1, help="The number of images of a project. -1: unlimited."),
        cfg.IntOpt(
            "image_size_total",
            default=102400,
            min=-1,
            help="The size of all images of a project in MiB, unfinished uploads included. -1: unlimited.",
        ),
        cfg.IntOpt(
            "image_disk_reserve_mib",
            default=1024,
            min=0,
            help="Free space of the file system of images_dir, in MiB, that uploads cannot take. The store needs it if it"
            " is on the same file system.",
        ),
        cfg.Opt(
            "agent_down_time",
            default=20,
            type=seconds(minimum=1),
            help="Seconds without a heartbeat after which an agent is shown as down and gets no new servers.",
        ),
        cfg.IntOpt(
            "change_retention_seconds",
            default=3600,
            min=60,
            help="Seconds for which changes and deletions are stored for watching agents. An agent that was away longer lists again.",
        ),
    ),
    "The control API, which the openstack client and the agents use.",
)

OSLO_POLICY = Section(
    "oslo_policy",
    (
        cfg.StrOpt(
            "policy_file",
            default="policy.yaml",
            help="The file with the rules that override the defaults. A relative path is looked for in the folders of the configuration files, the last one first. The default file may be absent. SIGHUP reloads the rules.",
        ),
        cfg.MultiStrOpt(
            "policy_dirs",
            default=["policy.d"],
            help="Folders with further files of rules, which are read after policy_file, by name.",
        ),
    ),
    "The rules of the control API (oslo.policy). `openimds config sample policy.yaml` prints them.",
)
