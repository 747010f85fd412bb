#!/bin/sh
# What a container engine does for a process, with the kernel's own tools. Runs as root in mount, network and UTS
# namespaces of its own; the bridge `compose` is in the network of process 1.
#
#   container.sh NAME ADDRESS ROOT [MOUNT]... -- COMMAND...
#
# ADDRESS `none` leaves only loopback. A MOUNT is one of: `bind SOURCE TARGET rw|ro`, `tmpfs TARGET`, `read-only`.
set -eu

name=$1 address=$2 root=$3
shift 3
echo "$name" >/proc/sys/kernel/hostname
ip link set lo up
if [ "$address" != none ]; then
    outside=veth${address##*.}
    ip link add eth0 type veth peer name "$outside" netns 1
    nsenter --target 1 --net ip link set "$outside" master compose up
    ip address add "$address/24" dev eth0
    ip link set eth0 up
fi
while [ "$1" != -- ]; do
    case $1 in
    bind)
        mount --bind "$2" "$root$3"
        [ "$4" = rw ] || mount -o remount,bind,ro "$root$3"
        shift 4
        ;;
    tmpfs)
        mount -t tmpfs -o mode=1777 tmpfs "$root$2"
        shift 2
        ;;
    read-only)
        mount -o remount,bind,ro "$root"
        shift
        ;;
    esac
done
shift
exec chroot "$root" "$@"
