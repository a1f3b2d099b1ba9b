#!/bin/sh
# Applies the lease of a DHCP client: udhcpc's variables for IPv4, dhclient's for IPv6.
# A client that uses classless routes (option 121 or 249) ignores the default route of option 3 (RFC 3442).

metric() { # the default route of eth0 has the lowest metric
    [ "$interface" = eth0 ] || echo "metric $((100 + ${interface#eth}))"
}

route() { # destination, gateway
    rank=
    case $1 in */0) rank=$(metric) ;; esac
    if [ "$2" = 0.0.0.0 ]; then
        ip -4 route replace "$1" dev "$interface" $rank
    else
        ip -4 route replace "$1" via "$2" dev "$interface" $rank 2>/dev/null ||
            ip -4 route replace "$1" via "$2" dev "$interface" onlink $rank
    fi
}

set_routes() {
    ip -4 route flush dev "$interface" proto boot
    # shellcheck disable=SC2086 # a list: destination gateway destination gateway
    set -- ${staticroutes:-$msstaticroutes}
    if [ $# -eq 0 ]; then
        for gateway in $router; do
            route 0.0.0.0/0 "$gateway"
        done
    fi
    while [ $# -ge 2 ]; do
        route "$1" "$2"
        shift 2
    done
}

set_dns() {
    [ -n "$dns" ] || return
    {
        [ -z "$domain" ] || echo "search $domain"
        for server in $dns; do
            echo "nameserver $server"
        done
    } >"/run/resolv.$interface"
    cat /run/resolv.eth* >/etc/resolv.conf
}

take_ipv4() {
    [ -z "$mtu" ] || ip link set dev "$interface" mtu "$mtu"
    wanted=$ip/${mask:-32}
    for old in $(ip -4 -o addr show dev "$interface" | awk '{ print $4 }'); do
        [ "$old" = "$wanted" ] || ip -4 addr del "$old" dev "$interface"
    done
    if [ "${mask:-32}" -ge 31 ]; then
        ip -4 addr replace "$wanted" dev "$interface"
    else
        ip -4 addr replace "$wanted" broadcast + dev "$interface"
    fi
    set_routes
    set_dns
}

case ${1:-$reason} in
deconfig) ip link set dev "$interface" up ;;
bound | renew) take_ipv4 ;;
BOUND6 | RENEW6 | REBIND6)
    [ -z "$new_ip6_address" ] || ip -6 addr replace "$new_ip6_address/${new_ip6_prefixlen:-128}" dev "$interface"
    ;;
esac
exit 0
