"""The daemon does without kubernetes_asyncio's models, and nobody else notices."""

import subprocess
import sys

LEAN = """
import sys
import kraynd.daemon
assert not [name for name in sys.modules if name.startswith("kubernetes_asyncio")], "more is loaded"
from kraynd.kube.restclient import RESTClientObject
assert hasattr(RESTClientObject, "request")
import kubernetes_asyncio.client
assert kubernetes_asyncio.client.V1Pod and kubernetes_asyncio.client.ApiClient
assert kubernetes_asyncio.client.rest.RESTClientObject
"""
WHOLE = """
import kubernetes_asyncio.client
from kraynd.kube.restclient import RESTClientObject
assert RESTClientObject is kubernetes_asyncio.client.rest.RESTClientObject
"""


def test_the_daemon_loads_no_models_and_the_package_stays_whole() -> None:
    for program in (LEAN, WHOLE):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
