# Runs in fresh mount and process namespaces: a writable copy of a Debian root, as a container would see it.
# Arguments: the root, a folder for the copy, then the startup command. All of it is gone when this process is.
set -eu
base=$1 copy=$2
shift 2
mount -t tmpfs tmpfs "$copy"
mkdir "$copy/upper" "$copy/work" "$copy/root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$copy/upper,workdir=$copy/work" "$copy/root"
root=$copy/root
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  if [ -e "$file" ]; then cat "$file" >"$root$file"; fi
done
# What a kubelet's exec does: the image's user and groups, the container's environment, no terminal.
chroot --userspec=1000:100 --groups=100,27 "$root" env -i PATH=/opt/ray/bin:/usr/local/bin:/usr/bin:/bin \
  HOME=/home/ray RAY_ADDRESS=127.0.0.1:6379 'QUOTED=a "b" c\d # e' "$@" </dev/null
echo "hook ended with $?"
exec sleep 3600
