"""Worker URLs: one spelling for each worker, and one sentence for each that is none."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidWorkerUrl

pytestmark = pytest.mark.core

LONGEST_HOST = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))

GOOD = {
    f"https://{LONGEST_HOST}:65535/": f"https://{LONGEST_HOST}:65535",
    "http://10.0.0.1:30000": "http://10.0.0.1:30000",
    "http://10.0.0.1:30000/": "http://10.0.0.1:30000",
    "HTTP://GPU-Node-1.Example.COM:8000": "http://gpu-node-1.example.com:8000",
    "http://localhost": "http://localhost",
    "http://localhost/": "http://localhost",
    "http://localhost:80": "http://localhost",
    "https://localhost:443/": "https://localhost",
    "http://localhost:443": "http://localhost:443",
    "https://localhost:80": "https://localhost:80",
    "http://localhost:00080": "http://localhost",
    "http://localhost:65535": "http://localhost:65535",
    "http://worker_1:1": "http://worker_1:1",
    "http://127.0.0.1:8000": "http://127.0.0.1:8000",
    "http://xn--bcher-kva.example": "http://xn--bcher-kva.example",
    "http://4090-box:8000": "http://4090-box:8000",
    "http://1.example": "http://1.example",
    "http://[::1]:8000": "http://[::1]:8000",
    "http://[2001:DB8:0:0:0:0:0:1]": "http://[2001:db8::1]",
    "https://[2001:db8::1]:443/": "https://[2001:db8::1]",
    "http://[2001:db8:0:0:1:0:0:1]:9": "http://[2001:db8::1:0:0:1]:9",
    "http://[::ffff:10.0.0.1]:9": "http://10.0.0.1:9",
    "http://[::ffff:a00:1]:9": "http://10.0.0.1:9",
}


@pytest.mark.parametrize(("text", "canonical"), GOOD.items())
def test_a_good_url_has_one_spelling(text: str, canonical: str) -> None:
    url = WorkerUrl.parse(text)
    assert str(url) == canonical
    assert WorkerUrl.parse(canonical) == url


BAD = {
    "": "must begin with http:// or https://",
    "localhost:8000": "must begin with http:// or https://",
    "10.0.0.1": "must begin with http:// or https://",
    "//10.0.0.1": "must begin with http:// or https://",
    "ftp://10.0.0.1": "must begin with http:// or https://",
    "file:///etc/passwd": "must begin with http:// or https://",
    "httpx://10.0.0.1": "must begin with http:// or https://",
    "http:/10.0.0.1": "must begin with http:// or https://",
    "http:10.0.0.1": "must begin with http:// or https://",
    "http://": "has no host",
    "http:///": "has no host",
    "http://:8000": "has no host",
    "http://10.0.0.1/v1": "must not have a path",
    "http://10.0.0.1//": "must not have a path",
    "http://10.0.0.1/.": "must not have a path",
    "http://10.0.0.1?": "must not have a query",
    "http://10.0.0.1/?a=1": "must not have a query",
    "http://10.0.0.1#": "must not have a fragment",
    "http://10.0.0.1/#top": "must not have a fragment",
    "http://me@10.0.0.1": "must not carry credentials",
    "http://me:secret@10.0.0.1": "must not carry credentials",
    "http://10.0.0.1@10.0.0.2": "must not carry credentials",
    "http://@10.0.0.2": "must not carry credentials",
    "http://10.0.0.1:": "has a colon but no port",
    "http://[::1]:": "has a colon but no port",
    "http://10.0.0.1:0": "has a port that is not a number from 1 to 65535",
    "http://10.0.0.1:65536": "has a port that is not a number from 1 to 65535",
    "http://10.0.0.1:-1": "has a port that is not a number from 1 to 65535",
    "http://10.0.0.1:+80": "has a port that is not a number from 1 to 65535",
    "http://10.0.0.1:http": "has a port that is not a number from 1 to 65535",
    "http://10.0.0.1:000080": "has a port that is not a number from 1 to 65535",
    "http://10.0.0.1:8_0": "has a port that is not a number from 1 to 65535",
    "http://2001:db8::1": "has more than one colon in its host; IPv6 addresses stand in [brackets]",
    "http://a:1:2": "has more than one colon in its host; IPv6 addresses stand in [brackets]",
    "http://[::1": "has an IPv6 address that is not closed by ] before the port",
    "http://[::1]8000": "has an IPv6 address that is not closed by ] before the port",
    "http://[]": "has no valid IPv6 address between [ and ]",
    "http://[10.0.0.1]": "has no valid IPv6 address between [ and ]",
    "http://[::1::2]": "has no valid IPv6 address between [ and ]",
    "http://[::ffff:010.0.0.1]": "has no valid IPv6 address between [ and ]",
    "http://[v1.x]": "has no valid IPv6 address between [ and ]",
    "http://[2001:db8::1%25eth0]": "must not have a zone in its address",
    "http://[2001:db8::1%eth0]": "must not have a zone in its address",
    "http://10.0.0.1 ": "has a space, a control character or a character outside ASCII",
    " http://10.0.0.1": "has a space, a control character or a character outside ASCII",
    "http://10.0.0.1\n": "has a space, a control character or a character outside ASCII",
    "http://10.0.0.1\r\nx: y": "has a space, a control character or a character outside ASCII",
    "http://10.0.0.1\x00": "has a space, a control character or a character outside ASCII",
    "http://10.0.0.1\x7f": "has a space, a control character or a character outside ASCII",
    "http://bücher.example": "has a space, a control character or a character outside ASCII",
    "http://\uff11\uff10.0.0.1": "has a space, a control character or a character outside ASCII",
    "http://10\u30020\u30020\u30021": "has a space, a control character or a character outside ASCII",
    "http://10.0.0.1\\@10.0.0.2": "must not carry credentials",
    "http://10.0.0.1\\x": "has a host that is neither a DNS name nor an address",
    "http://a%2eb": "has a host that is neither a DNS name nor an address",
    "http://a..b": "has a host that is neither a DNS name nor an address",
    "http://.a": "has a host that is neither a DNS name nor an address",
    "http://a.": "has a host that is neither a DNS name nor an address",
    "http://10.0.0.1.": "has a host that is neither a DNS name nor an address",
    "http://-a": "has a host that is neither a DNS name nor an address",
    "http://a-": "has a host that is neither a DNS name nor an address",
    "http://a,b": "has a host that is neither a DNS name nor an address",
    "http://*": "has a host that is neither a DNS name nor an address",
    f"http://{'a' * 64}": "has a host that is neither a DNS name nor an address",
    "http://10.0.0.256": "has a host that ends in a number but is no IPv4 address",
    "http://10.0.0.0.1": "has a host that ends in a number but is no IPv4 address",
    "http://10.0.0.08": "has a host that ends in a number but is no IPv4 address",
    "http://4294967296": "has a host that ends in a number but is no IPv4 address",
    "http://gpu.1": "has a host that ends in a number but is no IPv4 address",
    "http://10.1": "has an IPv4 address that is not written as four decimal numbers (10.0.0.1)",
    "http://167772161": "has an IPv4 address that is not written as four decimal numbers (10.0.0.1)",
    "http://0xa.0.0.1": "has an IPv4 address that is not written as four decimal numbers (10.0.0.1)",
    "http://012.0.0.1": "has an IPv4 address that is not written as four decimal numbers (10.0.0.1)",
    "http://10.0.0.0x1": "has an IPv4 address that is not written as four decimal numbers (10.0.0.1)",
    "http://0x7f.1": "has an IPv4 address that is not written as four decimal numbers (127.0.0.1)",
}


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_a_bad_url_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(InvalidWorkerUrl) as caught:
        WorkerUrl.parse(text)
    assert caught.value.message.endswith(why)
    assert caught.value.message.count("worker URL") == 1


REFUSED = {
    "http://169.254.169.254": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://169.254.0.1:30000": "has an address (169.254.0.1) that is link-local",
    "http://2852039166": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://0xa9fea9fe": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://0XA9FEA9FE": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://025177524776": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://0251.0376.0251.0376": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://0251.254.0xa9.0376": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://00000251.254.169.254": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://169.254.43518": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://169.16689662": "has an address (169.254.169.254) that is the metadata service of a cloud",
    "http://[::ffff:169.254.169.254]": "has an address (::ffff:a9fe:a9fe) that is the metadata service of a cloud",
    "http://[::ffff:a9fe:a9fe]": "has an address (::ffff:a9fe:a9fe) that is the metadata service of a cloud",
    "http://[::169.254.169.254]": "has an address (::a9fe:a9fe) that is the metadata service of a cloud",
    "http://[64:ff9b::169.254.169.254]": "has an address (64:ff9b::a9fe:a9fe) that is the metadata service of a cloud",
    "http://[2002:a9fe:a9fe::1]": "has an address (2002:a9fe:a9fe::1) that is the metadata service of a cloud",
    "http://[fe80::1]": "has an address (fe80::1) that is link-local",
    "http://[febf::1]": "has an address (febf::1) that is link-local",
    "http://[fd00:ec2::254]": "has an address (fd00:ec2::254) that is the metadata service of a cloud",
    "http://[FD00:0EC2:0:0:0:0:0:254]": "has an address (fd00:ec2::254) that is the metadata service of a cloud",
    "http://100.100.100.200": "has an address (100.100.100.200) that is the metadata service of a cloud",
    "http://168.63.129.16": "has an address (168.63.129.16) that is the metadata service of a cloud",
    "http://0.0.0.0:30000": "has an address (0.0.0.0) that is the unspecified address",
    "http://0": "has an address (0.0.0.0) that is the unspecified address",
    "http://0x": "has an address (0.0.0.0) that is the unspecified address",
    "http://[::]:30000": "has an address (::) that is the unspecified address",
    "http://224.0.0.1": "has an address (224.0.0.1) that is a multicast or broadcast address",
    "http://255.255.255.255": "has an address (255.255.255.255) that is a multicast or broadcast address",
    "http://metadata": "names the metadata service of a cloud",
    "http://METADATA:80/": "names the metadata service of a cloud",
    "http://metadata.google.internal": "names the metadata service of a cloud",
    "http://Metadata.Google.Internal.": "names the metadata service of a cloud",
    "http://metadata.google.internal..": "names the metadata service of a cloud",
    "http://instance-data": "names the metadata service of a cloud",
}


@pytest.mark.parametrize(("text", "why"), REFUSED.items())
def test_metadata_and_link_local_hosts_are_refused_in_every_spelling(text: str, why: str) -> None:
    with pytest.raises(InvalidWorkerUrl) as caught:
        WorkerUrl.parse(text)
    assert caught.value.message == f"worker URL {text!r} {why}"


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(InvalidWorkerUrl) as caught:
        WorkerUrl.parse("http://me:secret@10.0.0.1/")
    assert caught.value.to_wire() == (
        b'{"error":"worker URL \'http://...@10.0.0.1/\' must not carry credentials",'
        b'"code":"invalid_worker_url","url":"http://...@10.0.0.1/"}'
    )


def test_a_password_is_not_repeated_where_the_url_is_cut() -> None:
    with pytest.raises(InvalidWorkerUrl) as caught:
        WorkerUrl.parse(f"http://me:{'secret' * 100}@10.0.0.1")
    assert caught.value.message == "worker URL 'http://...' is longer than 280 characters"


def test_an_overlong_url_is_shown_in_part() -> None:
    with pytest.raises(InvalidWorkerUrl) as caught:
        WorkerUrl.parse("http://" + "a" * 10_000_000)
    assert caught.value.message == f"worker URL 'http://{'a' * 73}...' is longer than 280 characters"


@pytest.mark.parametrize(
    ("text", "authority", "display_id"),
    [
        ("http://a", "a", "a:80"),
        ("https://a", "a", "a:443"),
        ("http://a:8000", "a:8000", "a:8000"),
        ("http://[2001:db8::1]", "[2001:db8::1]", "[2001:db8::1]:80"),
        ("http://[2001:db8::1]:8000", "[2001:db8::1]:8000", "[2001:db8::1]:8000"),
    ],
)
def test_authority_leaves_the_default_port_out_and_display_id_does_not(
    text: str, authority: str, display_id: str
) -> None:
    url = WorkerUrl.parse(text)
    assert (url.authority, url.display_id) == (authority, display_id)


@given(st.text(alphabet=string.printable + "é\uff11\u3002", max_size=40))
def test_whatever_is_accepted_is_in_its_own_canonical_form_and_asks_nothing_of_a_parser(rest: str) -> None:
    try:
        url = WorkerUrl.parse("http://" + rest)
    except InvalidWorkerUrl:
        return
    assert WorkerUrl.parse(str(url)) == url
    assert set(url.host) <= set(string.ascii_lowercase + string.digits + "-._:")
    assert 1 <= url.port <= 65_535


@given(st.integers(0, 255), st.integers(0, 255), st.data())
def test_no_spelling_of_a_link_local_address_is_accepted(third: int, fourth: int, data: st.DataObject) -> None:
    parts = [169, 254, third, fourth]
    kept = data.draw(st.integers(1, 4))
    last = int.from_bytes(bytes(parts[kept - 1 :]), "big")
    spelt = [
        data.draw(st.sampled_from([str(n), f"0{n:o}", f"0x{n:x}", f"0X{n:X}"])) for n in [*parts[: kept - 1], last]
    ]
    with pytest.raises(InvalidWorkerUrl, match=r"that is (link-local|the metadata service of a cloud)$"):
        WorkerUrl.parse("http://" + ".".join(spelt))
