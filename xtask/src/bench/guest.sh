#!/bin/busybox sh
# First process of a machine in which time is instructions. Lines that begin with "@@" are for the host.
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /root
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ifconfig lo 127.0.0.1 up
echo "@@kernel $(uname -r)"

# A cable: what is sent into one end, `eth9` receives.
cable() {
    for module in /modules/*.ko; do insmod "$module"; done
    /bin/ip link add cable0 type veth peer name eth9 &&
        /bin/ip link set cable0 up && /bin/ip link set eth9 up || echo "@@problem no cable"
}
# What is named NAME from here on: nothing but the workloads, or something running beside them.
alone() {
    echo "@@variant $1"
}
beside() {
    name=$1
    shift
    echo "@@variant $name"
    "$@" >/dev/null 2>/tmp/errors &
    tool=$!
}
beside_agent() {
    beside "$@"
    sidecar-bench ready 127.0.0.1:9090 || echo "@@problem $name: $(tail -n 2 /tmp/errors | tr '\n' ' ')"
    sidecar-bench scrape 127.0.0.1:9090 15 &
    scraper=$!
}
end() {
    [ -z "$scraper" ] || kill $scraper
    scraper=
    kill -0 $tool || echo "@@problem $name ended early: $(tail -n 2 /tmp/errors | tr '\n' ' ')"
    kill $tool
    wait $tool
}
# Each begins alike: connections in TIME_WAIT are gone after a minute, and so is what an agent does only at its start.
measure() {
    sleep 70
    sidecar-bench measure "$@"
}
usage() {
    sidecar-bench usage $tool "$1"
}
finish() {
    echo "@@done"
    poweroff -f
}
