"""Tests of what a page of somebody else would have a browser do."""

import pytest

from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head
from sglang_diffusion_routing.proxy.browsers import is_by_browser, is_cross_origin, is_foreign

pytestmark = pytest.mark.core


def head(*fields: bytes, host: bytes = b"router:30080") -> RequestHead:
    raw = b"\r\n".join([b"POST /sleep HTTP/1.1", b"Host: " + host, *fields]) + b"\r\n\r\n"
    return parse_request_head(raw, 1024)


@pytest.mark.parametrize(
    "fields",
    [
        [b"Origin: http://evil.example"],
        [b"Origin: http://router:30081"],
        [b"Origin: http://router"],
        [b"Origin: https://router.evil.example:30080"],
        [b"Origin: null"],
        [b"Origin: file://"],
        [b"Origin:"],
        [b"Sec-Fetch-Site: cross-site"],
        [b"Sec-Fetch-Site: same-site"],
        [b"Sec-Fetch-Site: something-new"],
        [b"Sec-Fetch-Site: cross-site", b"Origin: http://router:30080"],
    ],
)
def test_a_page_of_another_origin_is_noticed(fields: list[bytes]) -> None:
    assert is_cross_origin(head(*fields), b"router:30080")


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ([], b"router:30080"),
        ([b"Origin: http://router:30080"], b"router:30080"),
        ([b"Origin: http://ROUTER:30080"], b"Router:30080"),
        ([b"Origin: http://router"], b"router:80"),
        ([b"Origin: http://router:80"], b"router"),
        ([b"Origin: https://router"], b"router:443"),
        ([b"Origin: https://router"], b"router"),
        ([b"Origin: http://[::1]:30080"], b"[::1]:30080"),
        ([b"Sec-Fetch-Site: same-origin", b"Origin: https://outside.example"], b"inside:30080"),
        ([b"Sec-Fetch-Site: none"], b"router:30080"),
    ],
)
def test_the_router_s_own_page_and_programs_are_not(fields: list[bytes], host: bytes) -> None:
    assert not is_cross_origin(head(*fields), host)


@pytest.mark.parametrize(
    "host", [b"evil.example", b"router.company.com:30080", b"a.b", b"127.0.0.1.evil.example", b"localhost.evil.example"]
)
def test_a_name_that_may_be_anybody_s_is_foreign(host: bytes) -> None:
    assert is_foreign(host, ())


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"localhost",
        b"router:30080",
        b"127.0.0.1:30080",
        b"10.0.0.8",
        b"[::1]:30080",
        b"a.localhost",
        b"router.ns.svc.cluster.local:30080",
        b"ip-10-0-0-1.ec2.internal",
        b"router.test",
        b"gpu.home.arpa.",
    ],
)
def test_a_name_that_no_stranger_can_have_is_not(host: bytes) -> None:
    assert not is_foreign(host, ())


def test_names_that_are_allowed_are_not_foreign() -> None:
    own = ("router.company.com", ".lab.edu")
    hosts = (b"Router.Company.com:1", b"x.company.com", b"n1.lab.edu", b"lab.edu", b"xlab.edu")
    assert [is_foreign(host, own) for host in hosts] == [False, True, False, True, True]


@pytest.mark.parametrize(
    "field",
    [
        b"Sec-Fetch-Site: none",
        b"Origin: http://a",
        b"Accept-Language: en",
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101",
    ],
)
def test_a_browser_is_known_by_what_all_of_them_send(field: bytes) -> None:
    assert is_by_browser(head(field))


@pytest.mark.parametrize("agent", [b"curl/8.5.0", b"python-requests/2.32", b"OpenAI/Python 2.0", b"Prometheus/3.0"])
def test_a_program_is_no_browser(agent: bytes) -> None:
    assert not is_by_browser(head(b"User-Agent: " + agent, b"Accept: */*"))
