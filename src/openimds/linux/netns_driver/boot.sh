#!/bin/sh
# Boots an instance of the netns driver as a small cloud image (cirros) does: network, metadata, keys, user data.
#
# The script runs as root of the instance, in its own user, mount, UTS, PID and network namespaces, and cannot write
# anything of the host. Its output is the console of the instance.
#
# /run/openimds/nics        the steps to configure each NIC, one per line (netconfig/netns_instance.py)
# METADATA_TRIES, METADATA_DELAY_CENTISECONDS, REQUEST_TIMEOUT_SECONDS
umask 022

METADATA=http://169.254.169.254
DATE=2009-04-04
HERE=/run/openimds
DOCUMENTS=/var/lib/metadata
USER_DATA_CAPABILITIES=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+sys_chroot

centiseconds() {
    read -r uptime _ </proc/uptime
    echo "${uptime%.*}${uptime#*.}"
}

STARTED=$(centiseconds)

seconds() { # 1206 -> 12.06
    printf '%d.%02d' $(($1 / 100)) $(($1 % 100))
}

up() {
    seconds $(($(centiseconds) - STARTED))
}

sleep_centiseconds() {
    [ "$1" -gt 0 ] && sleep "$(seconds "$1")"
}

furnish() {
    mkdir -p /etc /root /home /tmp /var/tmp /var/lib /var/log /var/run "$DOCUMENTS"
    chmod 700 /root "$DOCUMENTS"
    chmod 1777 /tmp /var/tmp
    [ -s /etc/passwd ] || printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >/etc/passwd
    [ -s /etc/group ] || printf 'root:x:0:\nnogroup:x:65534:\n' >/etc/group
    [ -s /etc/nsswitch.conf ] || printf 'passwd: files\ngroup: files\nhosts: files dns\n' >/etc/nsswitch.conf
    : >/etc/resolv.conf
    name_host guest
}

name_host() {
    hostname "$1"
    echo "$1" >/etc/hostname
    printf '127.0.0.1 localhost\n127.0.1.1 %s %s\n::1 localhost ip6-localhost\n' "${2:-$1}" "$1" >/etc/hosts
}

use_nics() {
    ip link set lo up
    cut -d ' ' -f 1 "$HERE/nics" | uniq | while read -r nic; do # remove the configuration of the previous boot
        ip link set dev "$nic" down
        ip addr flush dev "$nic"
        ip link set dev "$nic" up
    done
    while read -r nic what address gateway; do
        case $what in
        dhcp4) # one discover per second; continues in the background if there is no answer
            busybox udhcpc -i "$nic" -s "$HERE/dhcp.sh" -O mtu -O staticroutes -O msstaticroutes -t 5 -T 1 -A 5 -b 2>&1 &
            ;;
        dhcp6) dhcp6 "$nic" & ;;
        static) static "$nic" "$address" "$gateway" ;;
        esac
    done <"$HERE/nics"
    wait
}

dhcp6() {
    if ! command -v dhclient >/dev/null; then
        echo "dhcp6 on $1: no client for it here"
        return
    fi
    timeout 10 dhclient -6 -1 -q -sf "$HERE/dhcp.sh" -lf "/var/lib/dhclient6.$1" -pf "/run/dhclient6.$1" "$1" 2>&1
}

static() {
    family=-4
    case $2 in *:*) family=-6 ;; esac
    ip "$family" addr replace "$2" dev "$1"
    [ -z "$3" ] || ip "$family" route replace default via "$3" dev "$1" metric 50
}

show_network() {
    echo "=== network info ==="
    for path in /proc/sys/net/ipv4/conf/*; do
        nic=${path##*/}
        case $nic in all | default) continue ;; esac
        addresses=$(ip -o addr show dev "$nic" 2>/dev/null | awk '{ printf "%s,", $4 }')
        mac=$(ip -o link show dev "$nic" 2>/dev/null | sed -n 's/.*link\/ether \([^ ]*\).*/\1/p')
        mtu=$(ip -o link show dev "$nic" 2>/dev/null | sed -n 's/.* mtu \([0-9]*\).*/\1/p')
        echo "if-info: $nic,up,${mac:+mac=$mac,}${mtu:+mtu=$mtu,}$addresses"
    done
    ip -4 route | sed 's/^/ip-route:/'
    ip -6 route | grep -v '^fe80::/64' | sed 's/^/ip-route6:/'
    sed -n 's/^nameserver /dns: /p' /etc/resolv.conf
}

get() { # path, file
    curl -s -f -g --noproxy '*' --connect-timeout 1 --max-time "$REQUEST_TIMEOUT_SECONDS" --max-filesize 16777216 \
        -A openimds-guest -o "$2" "$METADATA/$1"
}

find_metadata() { # sets IID
    echo "checking $METADATA/$DATE/instance-id"
    try=1
    while [ "$try" -le "$METADATA_TRIES" ]; do
        began=$(centiseconds)
        if get "$DATE/meta-data/instance-id" "$DOCUMENTS/instance-id"; then
            IID=$(tr -cd 'A-Za-z0-9-' <"$DOCUMENTS/instance-id")
            echo "successful after $try/$METADATA_TRIES tries: up $(up). iid=$IID"
            return 0
        fi
        echo "failed $try/$METADATA_TRIES: up $(up). request failed"
        try=$((try + 1))
        if [ "$try" -le "$METADATA_TRIES" ]; then
            sleep_centiseconds $((METADATA_DELAY_CENTISECONDS - ($(centiseconds) - began)))
        fi
    done
    echo "failed to read iid from metadata. tried $METADATA_TRIES"
    return 1
}

fetch_documents() {
    for name in hostname local-ipv4 public-keys/; do
        get "$DATE/meta-data/$name" "$DOCUMENTS/${name%/}" || rm -f "$DOCUMENTS/${name%/}"
    done
    for name in meta_data.json network_data.json; do
        get "openstack/latest/$name" "$DOCUMENTS/$name" || rm -f "$DOCUMENTS/$name"
    done
    get "$DATE/user-data" "$DOCUMENTS/user-data" || rm -f "$DOCUMENTS/user-data"
}

printable() { # removes terminal control characters from foreign text
    tr -cd '\11\12\40-\176' <"$1"
}

show_documents() {
    echo "=== datasource: ec2 net ==="
    echo "instance-id: $IID"
    for name in hostname local-ipv4; do
        [ ! -f "$DOCUMENTS/$name" ] || echo "$name: $(printable "$DOCUMENTS/$name")"
    done
    for name in meta_data.json network_data.json; do
        [ ! -f "$DOCUMENTS/$name" ] || echo "openstack/latest/$name: $(wc -c <"$DOCUMENTS/$name") bytes"
    done
}

take_host_name() {
    [ -s "$DOCUMENTS/hostname" ] || return
    full=$(tr -cd 'A-Za-z0-9.-' <"$DOCUMENTS/hostname" | cut -c 1-253)
    short=$(echo "${full%%.*}" | cut -c 1-63)
    [ -z "$short" ] || name_host "$short" "$full"
}

take_keys() {
    [ -s "$DOCUMENTS/public-keys" ] || return
    mkdir -p /root/.ssh
    chmod 700 /root/.ssh
    : >/root/.ssh/authorized_keys
    chmod 600 /root/.ssh/authorized_keys
    # The listing has one `0=mykey` per line. The last line has no newline.
    printable "$DOCUMENTS/public-keys" | sed 's/=.*//' | while read -r number || [ -n "$number" ]; do
        case $number in '' | *[!0-9]*) continue ;; esac
        if get "$DATE/meta-data/public-keys/$number/openssh-key" "$DOCUMENTS/key"; then
            key=$(printable "$DOCUMENTS/key")
            echo "authorized key $number: $key"
            echo "$key" >>/root/.ssh/authorized_keys
        fi
    done
    rm -f "$DOCUMENTS/key"
}

run_user_data() {
    [ -s "$DOCUMENTS/user-data" ] || return
    case $(head -c 2 "$DOCUMENTS/user-data" | tr -d '\0') in
    '#!') ;;
    *)
        echo "user data: $(wc -c <"$DOCUMENTS/user-data") bytes, no script"
        return
        ;;
    esac
    chmod 700 "$DOCUMENTS/user-data"
    echo "=== user data: running ==="
    (cd /root && exec setpriv --bounding-set "$USER_DATA_CAPABILITIES" "$DOCUMENTS/user-data") </dev/null 2>&1
    echo "=== user data: ended with $? ==="
}

echo "openimds guest: booting"
furnish
use_nics
show_network
if find_metadata; then
    fetch_documents
    take_host_name
    show_documents
    take_keys
    run_user_data
else
    echo "no results found for mode=net. up $(up). searched: ec2"
fi
echo "=== boot finished: up $(up) ==="
echo "$(hostname) login:"
exec sleep infinity
