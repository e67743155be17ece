# In fresh mount, pid and cgroup namespaces: a user manager of its own, where systemd need not be pid 1.
# $1: the home folder. Everything here ends with this shell.
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0
chmod 0700 /run/user/0
umount -l /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /
# Not by exec: as pid 1 it would take itself for the system's manager.
env -i HOME="$1" PATH="$PATH" XDG_RUNTIME_DIR=/run/user/0 /lib/systemd/systemd --user
