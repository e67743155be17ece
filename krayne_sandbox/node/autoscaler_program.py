"""Ray's own autoscaler for KubeRay, told where the sandbox is. Run by the Python that has Ray, which has none of ours.

The provider knows a pod's place for its token and the API's certificate alone; here they are elsewhere.
"""

import argparse
import importlib
import sys
import types
from typing import Any


def main() -> None:
    """For ever."""
    options = argparse.ArgumentParser()
    for name in ("cluster", "namespace", "gcs", "token", "ca"):
        options.add_argument(f"--{name}", required=True)
    told = options.parse_args()
    del sys.path[0]  # this file's folder: it has a `ray.py` too
    provider: Any = importlib.import_module("ray.autoscaler._private.kuberay.node_provider")
    runner: Any = importlib.import_module("ray.autoscaler._private.kuberay.run_autoscaler")
    if not hasattr(provider, "IN_CLUSTER_TOKEN_PATH"):
        sys.exit("this Ray's autoscaler cannot be told of another API: workers stay as they are (pip install -U ray)")
    provider.IN_CLUSTER_TOKEN_PATH, provider.IN_CLUSTER_CA_CERT_PATH = told.token, told.ca
    # It asks every five seconds: a connection that stays spares the sandbox most of what a new one costs.
    requests: Any = importlib.import_module("requests")
    session = requests.Session()
    kept = {"get": session.get, "patch": session.patch, "delete": session.delete}
    provider.requests = types.SimpleNamespace(**{**vars(requests), **kept})
    runner.get_node_ip_address = lambda *_: "127.0.0.1"  # else its metrics listen on every address
    runner.run_kuberay_autoscaler(told.cluster, told.namespace, told.gcs)


if __name__ == "__main__":
    main()
