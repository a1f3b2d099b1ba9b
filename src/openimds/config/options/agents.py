"""The options of the agents, in neutron's names and files."""

from __future__ import annotations

from oslo_config import cfg, types

from openimds.config.options import DEFAULT, Section, old, seconds
from openimds.config.options.documents import strict_options
from openimds.config.options.keystone import keystone_section

KEYSTONE_AUTHTOKEN = keystone_section(
    "keystone_authtoken",
    purpose="Who the agent is at the control API, or at a Keystone.",
    with_2014_names=True,
)

AGENT = Section(
    "agent",
    (
        cfg.Opt(
            "report_interval",
            default=5,
            type=seconds(minimum=0.1, maximum=3600),
            deprecated_opts=[old("report_interval")],
            help="Seconds between two heartbeats; less than half of the control API's agent_down_time.",
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
            help="Seconds between two passes that look at everything and repair what was changed from outside.",
        ),
    ),
)

METADATA_SOCKET = Section(
    DEFAULT,
    (
        cfg.StrOpt(
            "metadata_proxy_socket",
            default="$state_path/metadata_proxy",
            help="The metadata agent's unix socket, to which the namespace proxies forward.",
        ),
        cfg.StrOpt(
            "metadata_proxy_user",
            default="",
            help="User (name or id) that the namespace proxies run as; empty: the agent's own.",
        ),
        cfg.StrOpt(
            "metadata_proxy_group",
            default="",
            help="Group (name or id) that the namespace proxies run as; empty: the agent's own.",
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
            help="What takes the guests' requests in a namespace.",
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
            help="How many connections one guest (an address; in direct mode a MAC) may have at once; 0: as many as there"
            " are (2048 for all of a namespace; in direct mode 4000). HAProxies have it from the DHCP and the L3 agent's"
            " files, direct mode from the metadata agent's: neutron.conf is one of both.",
        ),
    ),
    "What guests may do with metadata_proxy = direct; the option and the section are those of the namespace proxies.",
)

METADATA_HAPROXY = Section(
    "metadata_haproxy",
    (
        *(
            cfg.IntOpt(name, default=default, min=1, max=3600, help=text)
            for name, default, text in (
                ("timeout_connect", 30, "Seconds to wait for a connection to the metadata agent."),
                ("timeout_client", 32, "Seconds of silence from a guest before its connection is closed."),
                ("timeout_server", 32, "Seconds to wait for the metadata agent's answer."),
                ("timeout_http_request", 30, "Seconds that a guest may take to send a request's head."),
                ("timeout_http_keep_alive", 30, "Seconds that an idle connection is kept."),
            )
        ),
        *CONNECTIONS_PER_GUEST.options,
        *strict_options(),
    ),
    "The namespace proxies: time-outs, and what they let a guest do.",
)

# Neutron suggests 10 requests in 10 s, which throttles a normal boot of 28: the defaults here let two of them pass.
RATE_LIMITING = Section(
    "metadata_rate_limiting",
    (
        cfg.BoolOpt("rate_limit_enabled", default=False, help="Limit how often one address may ask."),
        cfg.ListOpt(
            "ip_versions",
            default=[4, 6],
            item_type=types.Integer(choices=[4, 6]),
            help="The IP versions that are limited.",
        ),
        cfg.IntOpt("base_window_duration", default=60, min=1, max=86400, help="The long window, in seconds."),
        cfg.IntOpt("base_query_rate_limit", default=240, min=1, help="Requests that may come in it."),
        cfg.IntOpt("burst_window_duration", default=10, min=1, max=86400, help="The short window, in seconds."),
        cfg.IntOpt("burst_query_rate_limit", default=60, min=1, help="Requests that may come in it."),
    ),
    "Beyond the limit of either window a guest gets 429.",
)

METADATA_AGENT = Section(
    DEFAULT,
    (
        cfg.HostAddressOpt(
            "nova_metadata_host",
            default="127.0.0.1",
            deprecated_opts=[old("nova_metadata_ip")],
            help="Where the metadata API is.",
        ),
        cfg.PortOpt("nova_metadata_port", default=8775, min=1, help="Its port."),
        cfg.StrOpt("nova_metadata_protocol", default="http", choices=["http", "https"], help="How to speak to it."),
        cfg.BoolOpt("nova_metadata_insecure", default=False, help="Take any certificate from it."),
        cfg.StrOpt("auth_ca_cert", default="", help="The certificate authorities that vouch for it."),
        cfg.StrOpt("nova_client_cert", default="", help="The certificate that we show it."),
        cfg.StrOpt("nova_client_priv_key", default="", help="That certificate's private key."),
        cfg.StrOpt(
            "metadata_proxy_shared_secret",
            default="",
            secret=True,
            help="Signs requests: the same text as [neutron] metadata_proxy_shared_secret in nova.conf.",
        ),
        cfg.StrOpt(
            "metadata_proxy_socket_mode",
            default="deduce",
            choices=[
                ("deduce", "by metadata_proxy_user and metadata_proxy_group"),
                ("user", "0644: the proxies run as the agent's user, or as root"),
                ("group", "0664: the proxies run in the agent's group"),
                ("all", "0666: anybody on this machine may ask as any instance"),
            ],
            help="Who may open the socket.",
        ),
        cfg.StrOpt(
            "cache_url",
            default="memory://?default_ttl=2",
            help="For how many seconds it is believed who has an address, where the control API has no watch (a real"
            " Neutron): memory://?default_ttl=SECONDS. Empty: never.",
        ),
        cfg.IntOpt(
            "metadata_max_staleness",
            default=300,
            min=0,
            help="For how many seconds it is believed who has an address after the control API was heard last, where"
            " namespace proxies bring requests. Then guests get 503. 0: for ever.",
        ),
        cfg.IntOpt(
            "metadata_direct_max_staleness",
            default=3600,
            min=0,
            help="The same for metadata_proxy = direct, where the MAC of the guest's own packet must fit too; and for"
            " how long documents are made from records of which no news come. 0: for ever.",
        ),
        cfg.IntOpt("metadata_workers", default=1, min=1, max=256, help="How many processes serve the socket."),
        cfg.IntOpt("metadata_backlog", default=4096, min=1, max=65535, help="Connections that may wait to be taken."),
    ),
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
            help="Serve it there where a subnet is isolated: no router has its gateway address.",
        ),
        cfg.BoolOpt(
            "enable_metadata_network",
            default=False,
            help="Serve it there on networks with a subnet in 169.254.0.0/16; needs enable_isolated_metadata.",
        ),
        cfg.IntOpt(
            "dhcp_lease_duration",
            default=86400,
            min=-1,
            deprecated_opts=[old("dhcp_lease_time")],
            help="Seconds that a lease lasts; -1: for ever.",
        ),
        cfg.StrOpt("dns_domain", default="openstacklocal", help="The domain in which instances' names are known."),
        cfg.ListOpt(
            "dnsmasq_dns_servers",
            default=[],
            item_type=types.String(),
            help="DNS servers that dnsmasq forwards questions to.",
        ),
        cfg.BoolOpt("dnsmasq_local_resolv", default=False, help="dnsmasq asks this machine's own resolvers."),
        cfg.StrOpt("dnsmasq_config_file", default="", help="A file with more settings for dnsmasq."),
        cfg.IntOpt("dnsmasq_lease_max", default=16777216, min=1, help="The most leases one network may hold."),
        cfg.BoolOpt("dhcp_broadcast_reply", default=False, help="Answer by broadcast."),
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
            help="The port in a router's namespace that requests are redirected to.",
        ),
        cfg.Opt(
            "metadata_access_mark",
            default="0x1",
            type=types.String(regex=r"^(0[xX][0-9a-fA-F]{1,4}|[0-9]{1,5})$"),
            help="Marks packets that came by that redirection; the lower 16 bits count.",
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
            help="Seconds that a boot waits for its ports to be in place; then it goes on without.",
        ),
    ),
)

GUEST = Section(
    "guest",
    (
        cfg.IntOpt("metadata_tries", default=20, min=1, max=1000, help="How often a guest asks before it gives up."),
        cfg.Opt("metadata_delay", default=1, type=seconds(minimum=0.01, maximum=60), help="Seconds between two tries."),
        cfg.Opt(
            "request_timeout", default=10, type=seconds(minimum=0.1, maximum=300), help="Seconds that one try may take."
        ),
        cfg.IntOpt(
            "uid",
            default=231072,
            min=1000,
            max=4294900000,
            help="The host user id that a guest's programs run as; nothing else on the host may have it.",
        ),
        cfg.IntOpt("memory_mib", default=512, min=16, help="Memory one process of a guest may take, in MiB."),
        cfg.IntOpt("processes", default=256, min=8, help="Processes one guest may have."),
    ),
    "Instances of the netns driver.",
)
