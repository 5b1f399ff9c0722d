"""Who joins and who leaves when sources are read: by example, and over random histories."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.discovery import (
    READINGS_TO_LEAVE,
    Change,
    DnsName,
    ListFile,
    Named,
    Roll,
    parse_source,
)
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import InvalidField

pytestmark = pytest.mark.core

A, B, C = (Named(url(name)) for name in "abc")
S, T = "dns://s:1", "file:/t"


def ids(*named: Named) -> dict[WorkerId, str | None]:
    """Workers that were taken in from S."""
    return {one.worker_id: S for one in named}


class TestASource:
    @pytest.mark.parametrize(
        ("text", "source"),
        [
            ("dns://workers.ns.svc.cluster.local:30000", DnsName("workers.ns.svc.cluster.local", 30000)),
            ("dns://Workers:80/", DnsName("workers", 80)),
            ("dns://[::1]:81", DnsName("::1", 81)),
            ("file:/etc/workers", ListFile("/etc/workers")),
            ("file:///etc/workers", ListFile("/etc/workers")),
            ("file:workers.txt", ListFile("workers.txt")),
        ],
    )
    def test_is_a_dns_name_with_a_port_or_a_file(self, text: str, source: object) -> None:
        assert parse_source(text) == source

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("workers:30000", "'workers:30000' is neither dns://NAME:PORT nor file:PATH"),
            ("dns:workers:1", "'dns:workers:1' is neither dns://NAME:PORT nor file:PATH"),
            ("", "'' is neither dns://NAME:PORT nor file:PATH"),
            ("file:", "'file:' names no file"),
            ("file://", "'file://' names no file"),
            ("dns://workers", "'dns://workers' names no port"),
            ("dns://", "'dns://' has no host"),
            ("dns://workers:0", "'dns://workers:0' has a port that is not a number from 1 to 65535"),
            ("dns://metadata.google.internal:80", "names the metadata service of a cloud"),
            ("dns://169.254.169.254:80", "is the metadata service of a cloud"),
            ("dns://me:secret@workers:80", "'dns://...@workers:80' must not carry credentials"),
            ("dns://workers:80/path", "must not have a path"),
        ],
    )
    def test_of_any_other_form_is_refused(self, text: str, why: str) -> None:
        with pytest.raises(InvalidField) as caught:
            parse_source(text)
        assert caught.value.message.endswith(why)
        assert "secret" not in caught.value.message

    @pytest.mark.parametrize("text", ["dns://workers:80", "dns://10.0.0.1:443", "dns://[::1]:81", "file:/etc/workers"])
    def test_is_written_as_it_is_read(self, text: str) -> None:
        assert str(parse_source(text)) == text


class TestAReading:
    def test_lets_join_who_is_named_first(self) -> None:
        roll = Roll()
        assert roll.read(S, [A, B], {}) == Change(joins=(A, B))
        assert roll.read(S, [A, B, C], ids(A, B)) == Change(joins=(C,))

    def test_without_news_changes_nothing(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        assert roll.read(S, [B, A], ids(A, B)) == Change()

    def test_must_miss_a_worker_twice_in_a_row_for_it_to_leave_and_says_so_once(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        assert roll.read(S, [A], ids(A, B)) == Change()
        assert roll.read(S, [A, B], ids(A, B)) == Change(joins=(B,))
        assert roll.read(S, [A], ids(A, B)) == Change()
        assert roll.read(S, [A], ids(A, B)) == Change(leaves=(B.worker_id,))
        assert roll.read(S, [A], ids(A, B)) == Change()

    def test_calls_back_who_has_been_told_to_leave(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        for _ in range(READINGS_TO_LEAVE):
            roll.read(S, [A], ids(A, B))
        assert roll.read(S, [A, B], ids(A, B)) == Change(joins=(B,))

    def test_leaves_alone_who_is_somebody_elses(self) -> None:
        roll = Roll()
        others: dict[WorkerId, str | None] = {A.worker_id: None, B.worker_id: T}
        assert roll.read(S, [A, B, C], others) == Change(joins=(C,))
        for _ in range(READINGS_TO_LEAVE):
            assert roll.read(S, [C], {**others, **ids(C)}) == Change()

    def test_does_not_take_in_again_who_was_removed_by_hand(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        assert roll.read(S, [A, B], ids(A)) == Change()

    def test_takes_in_who_was_removed_by_hand_when_it_is_named_anew(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        roll.read(S, [A], ids(A))
        assert roll.read(S, [A, B], ids(A)) == Change(joins=(B,))

    def test_passes_on_other_labels_and_another_cap(self) -> None:
        roll = Roll()
        roll.read(S, [A], {})
        changed = Named(A.url, (("group", "x"),), 4)
        assert roll.read(S, [changed], ids(A)) == Change(joins=(changed,))
        assert roll.read(S, [changed], ids(A)) == Change()

    def test_of_one_source_keeps_whom_another_still_names(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        roll.read(T, [B, C], ids(A, B))
        for _ in range(READINGS_TO_LEAVE + 1):
            assert roll.read(S, [A], {**ids(A, B), C.worker_id: T}) == Change()
        roll.read(T, [C], {**ids(A, B), C.worker_id: T})
        assert [roll.read(S, [A], ids(A, B)).leaves for _ in range(READINGS_TO_LEAVE)] == [(), (B.worker_id,)]

    def test_lets_who_was_restored_from_an_earlier_run_leave_too(self) -> None:
        roll = Roll()
        changes = [roll.read(S, [A], ids(A, B)) for _ in range(READINGS_TO_LEAVE)]
        assert [change.leaves for change in changes] == [(), (B.worker_id,)]

    def test_tries_again_who_could_not_join(self) -> None:
        roll = Roll()
        roll.read(S, [A, B], {})
        roll.failed(S, B.worker_id)
        assert roll.read(S, [A, B], ids(A)) == Change(joins=(B,))


NAMES = "abcd"


@given(st.lists(st.tuples(st.sampled_from((S, T)), st.sets(st.sampled_from(NAMES), min_size=1)), max_size=30))
def test_whoever_is_named_all_the_time_stays_and_nobody_stays_whom_nobody_names(
    readings: list[tuple[str, set[str]]],
) -> None:
    roll, registered = Roll(), dict[WorkerId, str | None]()
    last: dict[str, set[str]] = {}
    # Each source must do without the others' workers after both have ceased to name them.
    for source, names in readings + [(S, {"a"}), (T, {"a"})] * (READINGS_TO_LEAVE + 1):
        change = roll.read(source, [Named(url(name)) for name in sorted(names)], registered)
        last[source] = names
        for leaver in change.leaves:
            assert registered.pop(leaver) == source
        assert not set(change.leaves) & {worker_id(name) for names in last.values() for name in names}
        for joiner in change.joins:
            registered[joiner.worker_id] = source
        assert _everybody_named(last) <= registered.keys()
    assert registered.keys() == {worker_id("a")}


def _everybody_named(last: Mapping[str, set[str]]) -> set[WorkerId]:
    return {worker_id(name) for names in last.values() for name in names}
