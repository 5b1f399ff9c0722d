"""Addresses that may never be a worker's."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.core.address import (
    AllowedPlace,
    AllowList,
    ipv4_of_any_spelling,
    is_host_name,
    refused_address,
)
from sglang_diffusion_routing.errors import InvalidField

pytestmark = pytest.mark.core

METADATA = "is the metadata service of a cloud"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.0.0.1", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("8.8.8.8", None),
        ("192.168.1.1", None),
        ("100.100.100.199", None),
        ("169.253.255.255", None),
        ("169.255.0.0", None),
        ("2001:db8::1", None),
        ("fd00::1", None),
        ("64:ff9b::10.0.0.1", None),
        ("64:ff9b:1::10.0.0.1", None),
        ("64:ff9b:1:a00:0:100::", None),
        ("2002:a00:1::1", None),
        ("169.254.169.254", METADATA),
        ("169.254.169.254%eth0", METADATA),
        ("100.100.100.200", METADATA),
        ("168.63.129.16", METADATA),
        ("192.0.0.192", METADATA),
        ("fd00:ec2::254", METADATA),
        ("fd20:ce::254", METADATA),
        ("169.254.0.0", "is link-local"),
        ("169.254.255.255", "is link-local"),
        ("fe80::1", "is link-local"),
        ("fe80::1%eth0", "is link-local"),
        ("::ffff:169.254.169.254", METADATA),
        ("::169.254.169.254", METADATA),
        ("::ffff:0:169.254.169.254", METADATA),
        ("64:ff9b::169.254.169.254", METADATA),
        ("64:ff9b:1::169.254.169.254", METADATA),
        ("64:ff9b:1:a9fe:a9:fe00::", METADATA),
        ("2002:a9fe:a9fe::", METADATA),
        ("2001:0:a9fe:a9fe::", METADATA),
        ("2001:0:808:808:0:0:5601:5601", METADATA),
        ("2001:db8::5efe:169.254.169.254", METADATA),
        ("2001:db8::200:5efe:169.254.169.254", METADATA),
        ("::ffff:100.100.100.200", METADATA),
        ("64:ff9b::169.254.1.1", "is link-local"),
        ("0.0.0.0", "is the unspecified address"),
        ("0.1.2.3", "is the unspecified address"),
        ("::", "is the unspecified address"),
        ("::ffff:0.0.0.0", "is the unspecified address"),
        ("255.255.255.255", "is a multicast or broadcast address"),
        ("239.1.1.1", "is a multicast or broadcast address"),
        ("ff02::1", "is a multicast or broadcast address"),
        ("localhost", "is not an IP address"),
        ("", "is not an IP address"),
    ],
)
def test_an_address_is_judged_by_where_it_leads(address: str, why: str | None) -> None:
    assert refused_address(address) == why


@given(st.ip_addresses(v=4, network="169.254.0.0/16"))
def test_no_link_local_address_passes_inside_another(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    for disguised in (
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        f"2002:{high:x}:{low:x}::9",
        f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::",
    ):
        assert refused_address(disguised) is not None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.1", "10.0.0.1"),
        ("10.0.1", "10.0.0.1"),
        ("0xa.0x1", "10.0.0.1"),
        ("0x", "0.0.0.0"),
        ("037777777777", "255.255.255.255"),
        ("255.255.65535", "255.255.255.255"),
        ("255.255.65536", None),
        ("256.1", None),
        ("1.2.3.4.5", None),
        ("1..2", None),
        ("", None),
        ("09", None),
        ("0xg", None),
        ("a", None),
        ("-1", None),
    ],
)
def test_ipv4_is_read_as_inet_aton_reads_it(text: str, address: str | None) -> None:
    read = ipv4_of_any_spelling(text)
    assert (None if read is None else str(read)) == address


def test_an_empty_allow_list_allows_everything() -> None:
    nothing = AllowList.parse([])
    assert not nothing
    assert nothing.allows_host("anything", 1)
    assert nothing.allows_address("8.8.8.8", 65_535)


def test_an_allow_list_holds_names_addresses_and_networks() -> None:
    allowed = AllowList.parse(["GPU-1.example", "10.0.0.0/8", "192.168.1.7", "2001:db8::/32", "[fd00::1]"])
    assert allowed == AllowList(
        (
            AllowedPlace("gpu-1.example"),
            *(
                AllowedPlace(ipaddress.ip_network(n))
                for n in ("10.0.0.0/8", "192.168.1.7/32", "2001:db8::/32", "fd00::1/128")
            ),
        )
    )
    hosts = [
        "gpu-1.example",
        "gpu-2.example",
        "10.9.9.9",
        "11.0.0.1",
        "192.168.1.7",
        "2001:db8::9",
        "fd00::1",
        "fd00::2",
    ]
    assert [host for host in hosts if allowed.allows_host(host, 1)] == [
        "gpu-1.example",
        "10.9.9.9",
        "192.168.1.7",
        "2001:db8::9",
        "fd00::1",
    ]
    assert [ip for ip in ("10.1.2.3", "11.1.2.3", "2001:db8::1%eth0") if allowed.allows_address(ip, 65_535)] == [
        "10.1.2.3",
        "2001:db8::1%eth0",
    ]


@pytest.mark.parametrize(
    ("entry", "host", "ports"),
    [
        ("10.0.0.0/8:30000-30100", "10.1.1.1", range(30_000, 30_101)),
        ("10.1.1.1:8000", "10.1.1.1", range(8000, 8001)),
        ("GPU-1:1-65535", "gpu-1", range(1, 65_536)),
        ("gpu-1", "gpu-1", range(1, 65_536)),
        ("[fd00::]/8:30000", "fd00::7", range(30_000, 30_001)),
        ("[fd00::/8]:30000", "fd00::7", range(30_000, 30_001)),
        ("[fd00::7]:30000-30001", "fd00::7", range(30_000, 30_002)),
        ("[fd00::]/8", "fd00::7", range(1, 65_536)),
        ("fd00::7:1", "fd00::7:1", range(1, 65_536)),
    ],
)
def test_an_entry_may_name_the_ports(entry: str, host: str, ports: range) -> None:
    allowed = AllowList.parse([entry])
    asked = {1, 2, 7999, 8000, 8001, 29_999, 30_000, 30_001, 30_002, 30_100, 30_101, 65_535}
    assert {port for port in asked if allowed.allows_host(host, port)} == asked & set(ports)
    assert not allowed.allows_host("10.0.0.1.example", ports[0])


def test_ports_of_one_entry_are_not_those_of_another() -> None:
    allowed = AllowList.parse(["10.0.0.0/8:1", "10.0.0.7:2", "gpu:3"])
    asked = [("10.0.0.7", 1), ("10.0.0.7", 2), ("10.0.0.8", 2), ("gpu", 1), ("gpu", 3)]
    assert [allowed.allows_host(*one) for one in asked] == [True, True, False, False, True]


@pytest.mark.parametrize(
    "entry", ["", "http://a", "10.0.0.1/8", "10.0.0.0/33", "a b", "*", "[fd00::1", "[fd00::1]1", ":80"]
)
def test_an_entry_that_is_nothing_is_named(entry: str) -> None:
    with pytest.raises(InvalidField) as caught:
        AllowList.parse(["10.0.0.0/8", entry])
    assert caught.value.facts == {"field": "allow_worker"}
    assert caught.value.message.startswith(repr(entry))


@pytest.mark.parametrize("ports", ["", "0", "65536", "2-1", "1-", "-1", "1-2-3", "+1", "\u0661", "1_0", " 1", "http"])
@pytest.mark.parametrize("place", ["a", "10.0.0.0/8", "[fd00::]/8"])
def test_ports_that_are_none_are_named(place: str, ports: str) -> None:
    with pytest.raises(InvalidField, match="has ports that are neither one from 1 to 65535 nor a first and a last one"):
        AllowList.parse([f"{place}:{ports}"])


@pytest.mark.parametrize(
    ("text", "is_one"), [("a", True), ("a_b-1.c", True), ("A", False), ("a." * 127, False), ("é", False)]
)
def test_a_host_name_is_lower_case_labels(text: str, is_one: bool) -> None:
    assert is_host_name(text) is is_one
