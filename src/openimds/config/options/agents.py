"""The options of the agents, with the names that neutron uses."""

from __future__ import annotations

from oslo_config import cfg, types

from openimds.config.options import DEFAULT, Section, deprecated, seconds
from openimds.config.options.documents import strict_options
from openimds.config.options.keystone import keystone_section

KEYSTONE_AUTHTOKEN = keystone_section(
    "keystone_authtoken",
    purpose="The agent's credentials for the control API, or for a Keystone.",
    with_2014_names=True,
)

AGENT = Section(
    "agent",
    (
        cfg.Opt(
            "report_interval",
            default=5,
            type=seconds(minimum=0.1, maximum=3600),
            deprecated_opts=[deprecated("report_interval")],
            help="Seconds between two heartbeats. Set less than half of the control API's agent_down_time.",
        ),
    ),
)

RESYNC = Section(
    DEFAULT,
    (
        cfg.Opt(
            "resync_interval",
            default=5,
            type=seconds(minimum=0.1),
            help="Seconds between two full passes, which check every resource and repair changes made by others.",
        ),
    ),
)

METADATA_SOCKET = Section(
    DEFAULT,
    (
        cfg.StrOpt(
            "metadata_proxy_socket",
            default="$state_path/metadata_proxy",
            help="The metadata agent's unix socket, which the namespace proxies forward to.",
        ),
        cfg.StrOpt(
            "metadata_proxy_user",
            default="",
            help="The user (name or ID) of the namespace proxies. Empty: the agent's own user.",
        ),
        cfg.StrOpt(
            "metadata_proxy_group",
            default="",
            help="The group (name or ID) of the namespace proxies. Empty: the agent's own group.",
        ),
    ),
)

METADATA_PROXY = Section(
    DEFAULT,
    (
        cfg.StrOpt(
            "metadata_proxy",
            default="haproxy",
            choices=[
                ("haproxy", "one HAProxy in each namespace, which forwards to the metadata agent"),
                ("direct", "the metadata agent itself listens in each namespace"),
            ],
            help="The listener for metadata requests in each namespace.",
        ),
    ),
)

CONNECTIONS_PER_GUEST = Section(
    "metadata_haproxy",
    (
        cfg.IntOpt(
            "connections_per_guest",
            default=256,
            min=0,
            max=2048,
            help="Maximum number of open connections of one instance (by address; in direct mode by MAC). 0: only the"
            " total limit applies (2048 per namespace; in direct mode 4000). The DHCP and L3 agents read this option for"
            " HAProxy and the metadata agent reads it for direct mode, so set it in neutron.conf.",
        ),
    ),
    "The limits of instances with metadata_proxy = direct. The section and its options are those of the namespace proxies.",
)

METADATA_HAPROXY = Section(
    "metadata_haproxy",
    (
        *(
            cfg.IntOpt(name, default=default, min=1, max=3600, help=text)
            for name, default, text in (
                ("timeout_connect", 30, "Seconds to wait for a connection to the metadata agent."),
                ("timeout_client", 32, "Seconds without data from an instance before its connection is closed."),
                ("timeout_server", 32, "Seconds to wait for the metadata agent's response."),
                ("timeout_http_request", 30, "Seconds that an instance may take to send the head of a request."),
                ("timeout_http_keep_alive", 30, "Seconds before an idle connection is closed."),
            )
        ),
        *CONNECTIONS_PER_GUEST.options,
        cfg.StrOpt(
            "log_requests",
            default="failed",
            choices=[
                ("failed", "requests that HAProxy answered itself, and responses with a status of 500 or more"),
                ("all", "all requests, at about twice the processor time of a request"),
            ],
            help="The requests that HAProxy logs. The metadata agent logs each request with the same request ID. HAProxy"
            " logs all requests if the agent's responses have no X-Openstack-Request-Id.",
        ),
        *strict_options(),
    ),
    "The timeouts of the namespace proxies, and the limits of instances.",
)

# Neutron suggests 10 requests in 10 s, which throttles a normal boot of 28 requests. The defaults here allow two boots.
RATE_LIMITING = Section(
    "metadata_rate_limiting",
    (
        cfg.BoolOpt("rate_limit_enabled", default=False, help="Limit the rate of requests of each address."),
        cfg.ListOpt(
            "ip_versions",
            default=[4, 6],
            item_type=types.Integer(choices=[4, 6]),
            help="The IP versions that the limit applies to.",
        ),
        cfg.IntOpt(
            "base_window_duration", default=60, min=1, max=86400, help="The length of the long window in seconds."
        ),
        cfg.IntOpt("base_query_rate_limit", default=240, min=1, help="Maximum number of requests in the long window."),
        cfg.IntOpt(
            "burst_window_duration", default=10, min=1, max=86400, help="The length of the short window in seconds."
        ),
        cfg.IntOpt("burst_query_rate_limit", default=60, min=1, help="Maximum number of requests in the short window."),
    ),
    "Rate limits. An instance that exceeds the limit of either window gets 429.",
)

METADATA_AGENT = Section(
    DEFAULT,
    (
        cfg.HostAddressOpt(
            "nova_metadata_host",
            default="127.0.0.1",
            deprecated_opts=[deprecated("nova_metadata_ip")],
            help="The host of the metadata API.",
        ),
        cfg.PortOpt("nova_metadata_port", default=8775, min=1, help="The port of the metadata API."),
        cfg.StrOpt(
            "nova_metadata_protocol",
            default="http",
            choices=["http", "https"],
            help="The protocol of the metadata API.",
        ),
        cfg.BoolOpt("nova_metadata_insecure", default=False, help="Do not verify the certificate of the metadata API."),
        cfg.StrOpt("auth_ca_cert", default="", help="The CA certificates that verify the metadata API, as a PEM file."),
        cfg.StrOpt("nova_client_cert", default="", help="The client certificate for the metadata API."),
        cfg.StrOpt("nova_client_priv_key", default="", help="The private key of the client certificate."),
        cfg.StrOpt(
            "metadata_proxy_shared_secret",
            default="",
            secret=True,
            help="The secret that signs requests. It must equal [neutron] metadata_proxy_shared_secret in nova.conf.",
        ),
        cfg.StrOpt(
            "metadata_proxy_socket_mode",
            default="deduce",
            choices=[
                ("deduce", "derived from metadata_proxy_user and metadata_proxy_group"),
                ("user", "0644, for proxies that run as the agent's user or as root"),
                ("group", "0664, for proxies that run in the agent's group"),
                ("all", "0666, with which every local user can request as any instance"),
            ],
            help="The permissions of the socket.",
        ),
        cfg.StrOpt(
            "cache_url",
            default="memory://?default_ttl=2",
            help="The TTL of port lookups if the control API has no watch (a real Neutron), in the form"
            " memory://?default_ttl=SECONDS. Empty: lookups are not cached.",
        ),
        cfg.IntOpt(
            "metadata_max_staleness",
            default=300,
            min=0,
            help="Maximum age in seconds of the mirrored ports while the control API is unreachable, with namespace"
            " proxies. Older data is not used, and instances get 503. 0: no limit.",
        ),
        cfg.IntOpt(
            "metadata_direct_max_staleness",
            default=3600,
            min=0,
            help="The same for metadata_proxy = direct, where the MAC address of the instance must match as well. In"
            " both modes, the limit also applies to the instance records that documents are rendered from. 0: no limit.",
        ),
        cfg.IntOpt(
            "metadata_workers", default=1, min=1, max=256, help="The number of processes that serve the socket."
        ),
        cfg.IntOpt("metadata_backlog", default=4096, min=1, max=65535, help="The listen backlog of the socket."),
    ),
)

NOTIFICATIONS = Section(
    "oslo_messaging_notifications",
    (
        cfg.StrOpt(
            "transport_url",
            default="",
            secret=True,
            help="The message broker that Neutron and Nova send notifications to, rabbit://user:password@host:5672/. Empty:"
            " the agent receives no notifications. It needs openimds[notifications]. [oslo_messaging_rabbit] of the same"
            " files applies.",
        ),
        cfg.ListOpt(
            "topics",
            default=["notifications", "versioned_notifications"],
            deprecated_opts=[deprecated("notification_topics", "oslo_messaging_notifications")],
            help="The topics of the notifications.",
        ),
    ),
    "Notifications of a real Neutron and Nova. Without them a change of a port takes effect after the TTL of cache_url.",
)

DHCP_AGENT = Section(
    DEFAULT,
    (
        cfg.BoolOpt(
            "force_metadata",
            default=False,
            help="Serve metadata in the DHCP namespace of every network that has DHCP.",
        ),
        cfg.BoolOpt(
            "enable_isolated_metadata",
            default=False,
            help="Serve metadata in the DHCP namespace of networks with an isolated subnet, whose gateway address no router has.",
        ),
        cfg.BoolOpt(
            "enable_metadata_network",
            default=False,
            help="Serve metadata in the DHCP namespace of networks with a subnet in 169.254.0.0/16. Requires enable_isolated_metadata.",
        ),
        cfg.IntOpt(
            "dhcp_lease_duration",
            default=86400,
            min=-1,
            deprecated_opts=[deprecated("dhcp_lease_time")],
            help="The duration of a DHCP lease in seconds. -1: leases do not expire.",
        ),
        cfg.StrOpt("dns_domain", default="openstacklocal", help="The DNS domain of the names of instances."),
        cfg.ListOpt(
            "dnsmasq_dns_servers",
            default=[],
            item_type=types.String(),
            help="The DNS servers that dnsmasq forwards queries to.",
        ),
        cfg.BoolOpt(
            "dnsmasq_local_resolv", default=False, help="Let dnsmasq forward queries to the resolvers of this machine."
        ),
        cfg.StrOpt("dnsmasq_config_file", default="", help="A file with additional dnsmasq settings."),
        cfg.IntOpt("dnsmasq_lease_max", default=16777216, min=1, help="Maximum number of leases of one network."),
        cfg.BoolOpt("dhcp_broadcast_reply", default=False, help="Send DHCP replies as broadcasts."),
    ),
)

L3_AGENT = Section(
    DEFAULT,
    (
        cfg.BoolOpt("enable_metadata_proxy", default=True, help="Serve metadata in the routers' namespaces."),
        cfg.PortOpt(
            "metadata_port",
            default=9697,
            min=1,
            help="The port in a router's namespace that metadata requests are redirected to.",
        ),
        cfg.Opt(
            "metadata_access_mark",
            default="0x1",
            type=types.String(regex=r"^(0[xX][0-9a-fA-F]{1,4}|[0-9]{1,5})$"),
            help="The packet mark of redirected requests. Only the lower 16 bits are used.",
        ),
    ),
)

COMPUTE_AGENT = Section(
    DEFAULT,
    (
        cfg.Opt(
            "vif_plugging_timeout",
            default=15,
            type=seconds(minimum=0),
            help="Seconds that a boot waits for its ports to be wired. After this time it continues without them.",
        ),
    ),
)

GUEST = Section(
    "guest",
    (
        cfg.IntOpt(
            "metadata_tries",
            default=20,
            min=1,
            max=1000,
            help="Maximum number of metadata requests of a guest during its boot.",
        ),
        cfg.Opt(
            "metadata_delay", default=1, type=seconds(minimum=0.01, maximum=60), help="Seconds between two attempts."
        ),
        cfg.Opt(
            "request_timeout",
            default=10,
            type=seconds(minimum=0.1, maximum=300),
            help="Timeout of one attempt in seconds.",
        ),
        cfg.IntOpt(
            "uid",
            default=231072,
            min=1000,
            max=4294900000,
            help="The host user ID of the processes of guests. No other process of the host may have it.",
        ),
        cfg.IntOpt(
            "memory_mib",
            default=512,
            min=16,
            help="Address space of each process of a guest in MiB. The memory of the whole guest is that of its flavor.",
        ),
        cfg.IntOpt("processes", default=256, min=8, help="Maximum number of processes of a guest."),
        cfg.IntOpt(
            "disk_mib", default=256, min=16, help="Size of the disk of a guest in MiB, if its flavor has a disk of 0."
        ),
        cfg.BoolOpt(
            "preallocate_disk",
            default=True,
            help="A disk takes its whole size at the first boot of its guest. False: a disk takes the space that its"
            " guest has written, and guests can together fill the file system of the state folder.",
        ),
        cfg.IntOpt(
            "reserved_disk_mib",
            default=512,
            min=0,
            help="Free space in MiB that new disks of guests leave on the file system of the state folder, for the"
            " database, logs and images. A guest whose disk does not fit does not boot.",
        ),
    ),
    "The guests of the netns driver.",
)
