"""For developers: `python -m tests.controlplane build | up | down`.

`up` stays in the foreground, prints how to use the plane, and leaves nothing behind on Ctrl-C or SIGTERM; `down`
sends that signal to the plane running in a folder.
"""

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.controlplane.build import OPERATOR_VERSIONS, BuildError, build
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import PlaneError, wait_until
from tests.controlplane.ray import Follower, ray_python

DOWN_LIMIT = 30.0  # seconds for a plane to end


def main() -> int:
    """Run one command; returns the exit status."""
    options = _arguments()
    try:
        if options.command == "down":
            return _down(options.root)
        build()
        if options.command == "up":
            _up(options)
        else:
            ray_python()
    except (BuildError, PlaneError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.controlplane")
    parser.add_argument("command", choices=["build", "up", "down"])
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / f"krayne-plane-{os.getuid()}")
    parser.add_argument("--operator", default=OPERATOR_VERSIONS[0], choices=OPERATOR_VERSIONS)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--ray", metavar="CLUSTER", help="run a real Ray behind this cluster's head pod")
    return parser.parse_args()


def _up(options: argparse.Namespace) -> None:
    root = options.root / str(os.getpid())
    pid_file = options.root / "pid"
    root.mkdir(parents=True)
    signals = {signal.SIGINT, signal.SIGTERM}
    with ExitStack() as undo:
        plane = ControlPlane.start(root, operator=options.operator, nodes=options.nodes)
        undo.callback(plane.stop)
        if options.ray:
            undo.enter_context(Follower(plane, options.ray))
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid_file.write_text(str(os.getpid()))
        undo.callback(pid_file.unlink)
        print(f"export KUBECONFIG={plane.kubeconfig}\n# node control: http://{plane.node.address}", flush=True)
        signal.sigwait(signals)


def _down(root: Path) -> int:
    try:
        pid = int((root / "pid").read_text())
    except FileNotFoundError:
        print(f"no plane runs in {root}", file=sys.stderr)
        return 1
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        (root / "pid").unlink()
        return 0
    wait_until(f"plane {pid}", lambda: not Path(f"/proc/{pid}").exists(), DOWN_LIMIT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
