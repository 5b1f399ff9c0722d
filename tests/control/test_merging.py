from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.control.merging import Cursor, Item, Order, Page, created_at, is_after, merge


def item(name: str, at: int) -> Item:
    return {"id": name, "created_at": at}


def test_the_newest_of_all_workers_come_first() -> None:
    lists = [[item("a3", 30), item("a1", 10)], [item("b2", 20)]]
    assert merge(lists, Order.NEWEST_FIRST, 2) == Page([item("a3", 30), item("b2", 20)], has_more=True)


def test_the_oldest_of_all_workers_come_first_when_asked() -> None:
    lists = [[item("a1", 10), item("a3", 30)], [item("b2", 20)]]
    assert merge(lists, Order.OLDEST_FIRST, 3) == Page([item("a1", 10), item("b2", 20), item("a3", 30)], has_more=False)


def test_jobs_of_the_same_second_keep_the_order_of_workers_and_of_their_lists() -> None:
    lists = [[item("a1", 10), item("a2", 10)], [item("b1", 10)]]
    names = [row["id"] for row in merge(lists, Order.NEWEST_FIRST, 5).items]
    assert names == ["a1", "a2", "b1"]


def test_a_page_has_the_shape_of_openais_lists() -> None:
    page = Page([item("a", 2), item("b", 1)], has_more=True)
    assert page.to_wire() == {
        "object": "list",
        "data": [item("a", 2), item("b", 1)],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }


def test_an_empty_page_has_no_first_and_no_last() -> None:
    assert Page([], has_more=False).to_wire() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_an_item_without_an_instant_counts_as_the_oldest() -> None:
    assert created_at({"id": "x"}) == 0
    assert created_at({"id": "x", "created_at": "soon"}) == 0


def list_page(items: list[Item], after: str | None, order: Order) -> list[Item]:
    """What a worker answers: sorted by second, equals in order of creation, from behind `after`."""
    ordered = sorted(items, key=created_at, reverse=order is Order.NEWEST_FIRST)
    if after is None:
        return ordered
    place = [row["id"] for row in ordered].index(after)
    return ordered[place + 1 :]


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=4),
    st.sampled_from(Order),
    st.integers(1, 4),
)
def test_pages_one_after_the_other_give_every_job_once_and_in_order(
    seconds: list[list[int]], order: Order, limit: int
) -> None:
    workers = [[item(f"{place}-{n}", at) for n, at in enumerate(row)] for place, row in enumerate(seconds)]
    whole = merge([list_page(items, None, order) for items in workers], order, 1000).items
    seen: list[Item] = []
    cursor: tuple[str, Cursor] | None = None
    while True:
        lists = []
        for place, items in enumerate(workers):
            if cursor is None:
                lists.append(list_page(items, None, order))
            elif place == cursor[1].place:
                lists.append(list_page(items, cursor[0], order))
            else:
                rest = list_page(items, None, order)
                lists.append([row for row in rest if is_after(cursor[1], place, row, order)])
        page = merge(lists, order, limit)
        seen += page.items
        if not page.has_more:
            break
        last = page.items[-1]
        cursor = (str(last["id"]), Cursor(int(str(last["id"]).split("-")[0]), created_at(last)))
    assert seen == whole
    assert len(whole) == sum(len(row) for row in seconds)
