"""Which proxy leads to a server: proxy-url, else what the environment says, as Go reads it. Pure."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from krayne.errors import KubeConfigError

PORTS = {"https": 443, "http": 80}


def proxy_for(server: str, proxy_url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy's URL, None for none (golang.org/x/net/http/httpproxy). Raises KubeConfigError for one of no use."""
    found, origin = proxy_url, "proxy-url in the kubeconfig"
    if not found:
        address = urlsplit(server)
        port = address.port or PORTS.get(address.scheme, 443)
        if _is_excepted(address.hostname or "", port, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
            return None
        name = f"{address.scheme}_proxy"
        found, origin = environ.get(name.upper()) or environ.get(name) or "", name.upper()
    if not found:
        return None
    found = found if "://" in found else f"http://{found}"
    if not found.startswith(("http://", "https://")):
        raise KubeConfigError(
            f"{origin} names a proxy of a kind krayne cannot use: {found.partition('://')[0]}",
            hint="http and https proxies work",
        )
    return found


def _is_excepted(host: str, port: int, excepted: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for one in filter(None, (part.strip().lower() for part in excepted.split(","))):
        name, _, number = one.rpartition(":")
        if name and number.isdigit() and _address(one) is None:
            if int(number) != port:
                continue
            one = name
        if one == "*" or host == one.lstrip(".") or host.endswith("." + one.lstrip("*").lstrip(".")):
            return True
        if address is not None and _covers(one, address):
            return True
    return False


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None


def _covers(network: str, address: IPv4Address | IPv6Address) -> bool:
    try:
        return address in ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False
