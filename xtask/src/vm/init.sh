#!/bin/busybox sh
# First process of a test machine. Lines that begin with "@@" are for the host, which reads the console.
/bin/busybox mkdir -p /bin /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=1
export SIDECAR_TEST_VM=1 SIDECAR_BIN=/bin/sidecar

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ifconfig lo 127.0.0.1 up
hostname testvm
for module in /modules/*.ko; do
    [ -e "$module" ] && { insmod "$module" || echo "cannot load $module"; }
done

echo "@@kernel $(uname -r)"
status=0
run() {
    name=$1
    shift
    echo "@@begin $name"
    "/tests/$name" --show-output --test-threads=1 "$@" 2>&1
    code=$?
    [ $code -eq 0 ] || status=1
    echo
    echo "@@end $name $code"
}
finish() {
    sync
    echo "@@done $status"
    poweroff -f
}
