"""The proxy before a deployment's api-servers: it owns the public port, so that they can be replaced behind it.

An engine's own publishing cannot bind to one address, and closes the port for a moment when the container
behind it is replaced. HAProxy follows the service's DNS name, sends nothing to a server that does not answer its
check, and repeats on another one what a vanished server had not begun to answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astro_cli.domain.airflow import API_PORT
from astro_cli.runtime.plan import ContainerSpec, PrivateFile

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY = "proxy"
PORT = 8080
INSIDE_PORT = 8081
"""Plain HTTP for the deployment's own network; never published."""
USER_ID = 13
FOLDER = "/run/astro"
CERTIFICATE_FILE = f"{FOLDER}/tls.pem"

CONFIGURATION = """\
global
    maxconn 2000
    log stdout format raw local0 warning

defaults
    mode http
    log global
    option dontlognull
    option forwardfor
    option redispatch
    timeout connect 2s
    timeout client 5m
    timeout server 5m
    timeout tunnel 1h
    # A busy machine is slow, not dead: only an api-server that is gone must be left out.
    timeout check 15s
    retries 5
    retry-on conn-failure empty-response response-timeout 503

resolvers engine
    nameserver dns 127.0.0.11:53
    resolve_retries 2
    timeout resolve 300ms
    timeout retry 300ms
    hold valid 300ms
    hold obsolete 0s

frontend public
    bind :::{port} v4v6{tls}
    http-request set-header X-Forwarded-Proto {scheme} if {{ ssl_fc }} || !{{ req.hdr(X-Forwarded-Proto) -m found }}
    default_backend api

frontend inside
    bind :::{inside} v4v6
    default_backend api

backend api
    # Only what may be done twice is tried again.
    http-request disable-l7-retry unless METH_GET
    balance leastconn
    option httpchk GET /api/v2/version
    default-server check inter 1s fastinter 300ms fall 3 rise 1 resolvers engine init-addr none
    server-template api 10 api-server:{api} resolve-prefer ipv4
"""


def proxy_text(*, with_certificate: bool) -> str:
    """The proxy's configuration."""
    tls = f" ssl crt {CERTIFICATE_FILE} alpn h2,http/1.1" if with_certificate else ""
    scheme = "https" if with_certificate else "http"
    return CONFIGURATION.format(port=PORT, inside=INSIDE_PORT, api=API_PORT, tls=tls, scheme=scheme)


def proxy_container(image: str, publish: Mapping[str, Any], certificate: str) -> ContainerSpec:
    """The container of the proxy.

    Args:
        image: how the host's engine calls it.
        publish: the deployment's port and address.
        certificate: PEM text with chain and key, or empty for plain HTTP.
    """
    text = proxy_text(with_certificate=bool(certificate))
    files = [PrivateFile(f"{FOLDER}/haproxy.cfg", text, USER_ID)]
    if certificate:
        files.append(PrivateFile(CERTIFICATE_FILE, certificate, USER_ID))
    return ContainerSpec(
        name=PROXY,
        image=image,
        command=(),
        user=f"{USER_ID}:{USER_ID}",
        environment={},
        mounts=(),
        ports={PORT: publish["port"]},
        files=tuple(files),
        stop_seconds=10,
    )
