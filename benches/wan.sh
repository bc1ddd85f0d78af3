#!/usr/bin/env bash
# qbulk over a WAN, beside iperf3 over the same path in the same run: medians of three.
#
#   benches/wan.sh                  two network namespaces with netem between them (root, iproute2)
#   A='ip netns exec a' B='ip netns exec b' ADDR=192.0.2.2 benches/wan.sh
#                                   any two hosts: A and B are prefixed to commands, ADDR is B's address
#
# LINKS picks links by name (default: all), SIZES the sizes in MiB, RUNS the runs, QBULK the program.
# Sources are random data in memory (/dev/shm), and so is what arrives; each push is verified.
set -euo pipefail
cd "$(dirname "$0")/.."

RUNS=${RUNS:-3}
QBULK=${QBULK:-target/release/qbulk}
[[ -x $QBULK ]] || cargo build --release --locked
work=$(mktemp -d /dev/shm/qbulk-wan-XXXXXX)
export QBULK_CONFIG_DIR=$work/config QBULK_CACHE_DIR=$work/cache
mkdir "$work/root"

# name: rate, delay each way, loss in per cent, queue in packets, sizes in MiB
links=(
    "clean 1gbit 25ms 0 4200 64,256,1024"
    "lossy 1gbit 50ms 0.1 8400 256,1024"
    "long 500mbit 100ms 1 8400 1024"
    "shallow 1gbit 25ms 0 700 1024"
    "uplink 20mbit 15ms 0 85 32"
)

namespaces() {
    ip netns add qbulk-a && ip netns add qbulk-b
    ip link add veth0 netns qbulk-a type veth peer name veth0 netns qbulk-b
    ip -n qbulk-a addr add 198.18.0.1/24 dev veth0
    ip -n qbulk-b addr add 198.18.0.2/24 dev veth0
    for ns in qbulk-a qbulk-b; do ip -n $ns link set lo up && ip -n $ns link set veth0 up; done
    A='ip netns exec qbulk-a' B='ip netns exec qbulk-b' ADDR=198.18.0.2
}

# shape RATE DELAY LOSS QUEUE
shape() {
    [[ -n ${own:-} ]] || return 0
    for ns in qbulk-a qbulk-b; do
        tc -n $ns qdisc replace dev veth0 root netem rate "$1" delay "$2" loss "$3%" limit "$4"
    done
}

finish() {
    [[ -z ${served:-} ]] || kill "$served" 2>/dev/null || true
    [[ -z ${own:-} ]] || { ip netns del qbulk-a; ip netns del qbulk-b; } 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

if [[ -z ${A:-} ]]; then
    own=1
    namespaces
fi

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'; }

# push MIB [OPTION...]: Gbit/s of one push, from start to durable
push() {
    local mib=$1 source=$work/source-$1
    shift
    [[ -f $source ]] || head -c "${mib}M" /dev/urandom >"$source"
    $A "$QBULK" push --json "$@" "$source" "qbulk://$ADDR/copy" |
        sed -n '/"event":"summary"/s/.*"bytes_per_s":\([0-9.e+]*\).*/\1/p' | awk '{ print $1 * 8e-9 }'
    cmp -s "$source" "$work/root/copy" || { echo "the copy differs" >&2; exit 1; }
}

# tcp MIB ALGORITHM STREAMS: Gbit/s of iperf3
tcp() {
    command -v iperf3 >/dev/null || return 0
    $B iperf3 -s -1 -D >/dev/null
    sleep 0.2
    $A timeout 120 iperf3 -c "$ADDR" -n "$1M" -C "$2" -P "$3" -J 2>/dev/null |
        sed -n '/"sum_received"/,/}/s/.*"bits_per_second":[^0-9]*\([0-9.e+]*\).*/\1/p' |
        awk '{ print $1 * 1e-9 }'
}

several() { for ((run = 0; run < RUNS; run++)); do "$@"; done | median; }

$B "$QBULK" serve --quiet --root "$work/root" --listen "$ADDR:4433" &
served=$!
sleep 0.5
# Gets to know the server.
: >"$work/source-0" && $A "$QBULK" push --quiet --accept-new "$work/source-0" "qbulk://$ADDR/copy"

printf '%-9s %6s %8s %14s %9s %9s %9s\n' link MiB qbulk 'qbulk again' bbr cubic 'cubic x8'
for link in "${links[@]}"; do
    read -r name rate delay loss queue sizes <<<"$link"
    [[ " ${LINKS:-$name} " == *" $name "* ]] || continue
    shape "$rate" "$delay" "$loss" "$queue"
    for mib in ${SIZES:-${sizes//,/ }}; do
        printf '%-9s %6s %8s %14s %9s %9s %9s\n' "$name" "$mib" \
            "$(several push "$mib" --no-memory)" "$(several push "$mib")" \
            "$(several tcp "$mib" bbr 1)" "$(several tcp "$mib" cubic 1)" "$(several tcp "$mib" cubic 8)"
    done
done
