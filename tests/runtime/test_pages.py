from __future__ import annotations

import pytest

from autodeploy.runtime.pages import PagePool
from tests.runtime.fakes import new_request


def test_pages_are_counted_and_come_back() -> None:
    pool = PagePool(4)
    mine = pool.allocate(3)
    assert len(set(mine)) == 3
    assert pool.can_allocate(1)
    assert not pool.can_allocate(2)
    pool.check_integrity([mine])
    pool.free(mine)
    assert pool.num_free == 4
    pool.check_integrity([])


def test_a_registered_page_is_shared_and_outlives_its_holder() -> None:
    pool = PagePool(4)
    mine = pool.allocate(2)
    pool.register(mine[0], b"first")
    pool.register(mine[1], b"second")
    pool.free(mine)
    assert pool.find([b"first", b"second", b"third"]) == mine
    assert pool.find([b"unknown", b"first"]) == []
    one = pool.allocate(1, mine)
    two = pool.allocate(0, mine)
    assert one[:2] == two == mine
    pool.check_integrity([one, two])
    pool.free(one)
    pool.check_integrity([two])


def test_free_shared_pages_are_not_counted_twice() -> None:
    pool = PagePool(3)
    mine = pool.allocate(2)
    pool.register(mine[0], b"first")
    pool.free(mine)
    assert pool.can_allocate(2, mine[:1])
    assert not pool.can_allocate(3, mine[:1])


def test_blank_pages_go_first_then_the_page_freed_longest_ago_and_prefixes_last() -> None:
    pool = PagePool(4)
    old, new = pool.allocate(1), pool.allocate(2)
    for page, digest in zip([*old, *new], (b"old", b"new 0", b"new 1"), strict=True):
        pool.register(page, digest)
    pool.free(old)
    pool.free(new)
    held = pool.allocate(1)
    assert pool.find([b"old"]) == old, "there was a blank page"
    held += pool.allocate(1)
    assert pool.find([b"old"]) == [], "the oldest goes first"
    held += pool.allocate(1)
    assert pool.find([b"new 0", b"new 1"]) == new[:1], "the end of a prefix goes before its start"
    pool.check_integrity([held])


def test_equal_contents_keep_the_first_page() -> None:
    pool = PagePool(2)
    one, two = pool.allocate(1), pool.allocate(1)
    pool.register(one[0], b"same")
    pool.register(two[0], b"same")
    assert pool.find([b"same"]) == one
    pool.free(two)
    pool.free(one)
    pool.check_integrity([])


def test_integrity_is_checked() -> None:
    pool = PagePool(2)
    mine = pool.allocate(1)
    with pytest.raises(AssertionError, match="miscounted"):
        pool.check_integrity([])
    pool.free(mine)
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free(mine)


def test_a_digest_names_all_tokens_up_to_the_pages_end() -> None:
    one, same, other = new_request([1, 2, 3, 4, 5]), new_request([1, 2, 3, 4]), new_request([9, 2, 3, 4])
    assert one.digest(1, 2) == same.digest(1, 2)
    assert one.digest(1, 2) != other.digest(1, 2)
    with pytest.raises(AssertionError, match="only full pages"):
        one.digest(2, 2)
