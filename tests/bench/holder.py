"""The forwards of one pod in a process of their own, without the rest of the daemon: what a profile looks at.

`python -m tests.bench.holder NAMESPACE POD UID PORT...` prints a local port for each and serves until its input ends.
With `--profile FILE` it leaves cProfile's figures there.
"""

import argparse
import cProfile
import os
import socket
import sys
from functools import partial

import anyio
from anyio import to_thread

from kraynd.core.model import ClusterKey, ForwardKey, PodTarget
from kraynd.forwards import Forwards, ForwardSpec
from kraynd.kube.auth import load_endpoint
from kraynd.kube.tunnel import TunnelPool, TunnelSettings
from krayne.config import KrayneSettings


def main() -> int:
    """Serve."""
    options = _arguments()
    target = PodTarget(options.namespace, options.pod, options.uid, running=True, ready=True)
    profile = cProfile.Profile() if options.profile else None
    if profile is not None:
        profile.enable()
    anyio.run(_serve, options, target, backend_options={"use_uvloop": options.loop == "uvloop"})
    if profile is not None:
        profile.disable()
        profile.dump_stats(options.profile)
    return 0


async def _serve(options: argparse.Namespace, target: PodTarget) -> None:
    endpoint = load_endpoint(KrayneSettings(), dict(os.environ))
    settings = TunnelSettings(transport=options.transport)
    pool = TunnelPool(endpoint, settings=settings)
    shut = not options.open
    forwards = Forwards(socket_dir=None, on_change=lambda _key: None, check_peer=shut, guard_web=shut)
    scheme = "http" if options.http else "tcp"
    locals_ = [_free_port() for _ in options.ports]
    async with anyio.create_task_group() as tasks:
        await tasks.start(pool.run)
        await tasks.start(forwards.run)
        forwards.aim(ClusterKey("default", "bench"), pool, target, "")
        pairs = zip(options.ports, locals_, strict=True)
        forwards.want([ForwardSpec(ForwardKey("default", "bench", f"p{one}"), one, at, scheme) for one, at in pairs])
        while any(state.state == "holding" for state in forwards.states().values()):
            await anyio.sleep(0.01)
        print(*locals_, flush=True)
        await to_thread.run_sync(partial(sys.stdin.read), abandon_on_cancel=True)
        tasks.cancel_scope.cancel()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.holder")
    parser.add_argument("--profile", default="")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--transport", choices=("auto", "spdy", "websocket"), default="auto")
    parser.add_argument("--open", action="store_true", help="let everybody in: both locks off")
    parser.add_argument("--http", action="store_true", help="every port is an HTTP service")
    parser.add_argument("namespace")
    parser.add_argument("pod")
    parser.add_argument("uid")
    parser.add_argument("ports", type=int, nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
