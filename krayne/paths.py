"""Every path krayne reads or writes, decided once, for both sides.

No environment but KRAYNE_HOME and KRAYNE_SOCKET takes part, so that cron, sudo-less ssh and a service agree on the
socket. Standard library only; creates nothing. `platformdirs` is imported late, by the daemon alone.
"""

import os
import pwd

# sun_path is 104 bytes with its NUL on macOS, 108 on Linux.
SOCKET_PATH_LIMIT = 103


def home() -> str:
    """The home folder: KRAYNE_HOME, else ~/.krayne. Absolute, no trailing slash."""
    chosen = os.environ.get("KRAYNE_HOME")
    if chosen:
        return os.path.abspath(chosen)
    return os.path.join(os.path.expanduser("~"), ".krayne")


def settings_file() -> str:
    """KrayneSettings: kubeconfig and context."""
    return os.path.join(home(), "config.yaml")


def clusters_dir() -> str:
    """Cluster files, one ClusterConfig each, anywhere below it."""
    return os.path.join(home(), "clusters")


def state_file() -> str:
    """What the daemon must remember: ports, object uids, owners."""
    return os.path.join(home(), "state.json")


def ssh_dir() -> str:
    """What we write for ssh; nothing in it is secret, and nothing but the daemon writes it."""
    return os.path.join(home(), "ssh")


def ssh_config_file() -> str:
    """Our hosts, for an Include in ~/.ssh/config."""
    return os.path.join(ssh_dir(), "config")


def known_hosts_file() -> str:
    """Our hosts' keys, as their pods told them over the API server's connection."""
    return os.path.join(ssh_dir(), "known_hosts")


def sandbox_dir() -> str:
    """What the sandbox keeps, which writes it alone."""
    return os.path.join(home(), "sandbox")


def sandbox_identity() -> str:
    """The ssh key that opens the sandbox's pods; made by the sandbox."""
    return os.path.join(sandbox_dir(), "identity")


def daemon_file() -> str:
    """Who serves this home now: pid, socket, version, API range, executable, host."""
    return os.path.join(home(), "daemon.json")


def lock_file() -> str:
    """Held by the one daemon of this home. Never deleted: deleting a lock file splits the lock."""
    return os.path.join(home(), "kraynd.lock")


def start_lock_file() -> str:
    """Held by a client while it starts a daemon."""
    return os.path.join(home(), "start.lock")


def _default_home(uid: int) -> str:
    # From the user database, not $HOME: two values of HOME are two homes, and must not share a socket.
    try:
        return os.path.join(pwd.getpwuid(uid).pw_dir, ".krayne")
    except KeyError:
        return ""


def _short_hash(text: str) -> str:
    # FNV-1a, 64 bits: a name, not a secret, and hashlib costs the client a millisecond.
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8", "surrogateescape"):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"[:10]


def is_private_dir(path: str) -> bool:
    """Whether `path` is a real directory, ours, and closed to everybody else."""
    try:
        st = os.lstat(path)
    except OSError:
        return False
    return (st.st_mode & 0o170000) == 0o040000 and st.st_uid == os.getuid() and not st.st_mode & 0o077


def run_dir() -> str:
    """The directory of the control socket and the forwards' Unix sockets; 0700 once created.

    /run/user/UID/krayne where logind made that directory, else HOME/run; a home of another name than the default gets
    its own, so that two homes never share a socket; a path too long for a socket moves under /tmp with a hashed name.
    """
    uid = os.getuid()
    base = f"/run/user/{uid}"
    if is_private_dir(base):
        where = f"{base}/krayne"
        if home() != _default_home(uid):
            where += "-" + _short_hash(home())
    else:
        where = os.path.join(home(), "run")
    # 40 bytes are left for the names of the forwards' sockets.
    if len(os.fsencode(where)) > SOCKET_PATH_LIMIT - 40:
        where = f"/tmp/krayne-{uid}-{_short_hash(home())}"  # noqa: S108 - made 0700 and checked by its user
    return where


def socket_path() -> str:
    """The control socket: KRAYNE_SOCKET, else in `run_dir`."""
    return os.environ.get("KRAYNE_SOCKET") or os.path.join(run_dir(), "kraynd.sock")


def log_file() -> str:
    """Where a daemon without a service manager logs; kept in the home when that is not the default one."""
    if os.environ.get("KRAYNE_HOME"):
        return os.path.join(home(), "logs", "kraynd.log")
    from platformdirs import user_log_dir

    return os.path.join(user_log_dir("krayne", appauthor=False), "kraynd.log")
