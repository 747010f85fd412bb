#!/bin/sh
# A machine inside the machine, for containers: a bridge, a small disk in memory, and the file system that stands in for
# every image. Runs as root in mount and network namespaces of their own; what is mounted here is seen nowhere else.
#
#   machine.sh DIRECTORY
set -eu

dir=$1
root=$dir/root
ip link set lo up
# With an address of its own: it would otherwise take one of a container's, and change when that goes.
ip link add compose address 02:00:00:00:00:01 type bridge
ip address add 10.0.0.1/24 dev compose
ip link set compose up

mount -t tmpfs -o size=1g,mode=755 tmpfs "$dir"
mkdir "$root"
# A mount of its own, so that a container can have it read-only.
mount --bind "$root" "$root"
mkdir -p "$root/etc" "$root/run" "$root/var" "$root/root" "$root/image"
mkdir -m 1777 "$root/tmp"
for system in /bin /sbin /lib /lib32 /lib64 /libx32 /usr /opt; do
    if [ -h "$system" ]; then
        cp -P "$system" "$root$system"
    elif [ -d "$system" ]; then
        mkdir "$root$system"
        mount --bind "$system" "$root$system"
        mount -o remount,bind,ro "$root$system"
    fi
done
for system in /dev /proc; do
    mkdir "$root$system"
    mount --rbind "$system" "$root$system"
done
for file in ld.so.cache ld.so.conf ld.so.conf.d ssl pki crypto-policies alternatives; do
    [ ! -e "/etc/$file" ] || cp -a "/etc/$file" "$root/etc/$file"
done
echo 'hosts: files' >"$root/etc/nsswitch.conf"
cat >"$root/etc/passwd" <<PASSWD
root:x:0:0:root:/root:/bin/sh
postgres:x:999:999::/var/lib/postgresql:/bin/sh
openwatch:x:10001:10001::/nonexistent:/usr/sbin/nologin
PASSWD
