"""The page pool: who holds which page of the cache, and which pages can be found again by their contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


class PagePool:
    """Pages 0 to `num_pages - 1`, counted by the requests that hold them.

    A page that is full may be registered under a digest of all the tokens up to its end. It then can be shared, and
    stays findable after its last holder freed it, until the space is needed: blank pages go first, then the page freed
    longest ago. Registered pages are never written again, so sharing needs no copies.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._holders = [0] * num_pages
        self._blank = list(range(num_pages - 1, -1, -1))
        self._kept: dict[int, None] = {}  # free but registered, the one freed longest ago first
        self._digest_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._blank) + len(self._kept)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The pages registered under the first of `digests`, up to the first that is unknown. Holds nothing yet."""
        pages = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            pages.append(page)
        return pages

    def can_allocate(self, num_new: int, shared: Sequence[int] = ()) -> bool:
        """Whether `num_new` pages can be had on top of `shared`, which may themselves be free at the moment."""
        free = self.num_free
        if shared:
            free -= sum(1 for page in shared if not self._holders[page])
        return num_new <= free

    def allocate(self, num_new: int, shared: Sequence[int] = ()) -> list[int]:
        """Hold the pages `shared` and `num_new` fresh ones; they are returned in this order."""
        assert self.can_allocate(num_new, shared)
        for page in shared:
            if not self._holders[page]:
                del self._kept[page]
            self._holders[page] += 1
        fresh = self._take_blank(num_new)
        fresh += [self._take_kept() for _ in range(num_new - len(fresh))]
        for page in fresh:
            self._holders[page] = 1
        return [*shared, *fresh]

    def register(self, page: int, digest: bytes) -> None:
        """Let `page`, held and full, be found by `digest`, unless another page has that digest already."""
        assert self._holders[page]
        assert page not in self._digest_of
        if digest not in self._page_of:
            self._page_of[digest] = page
            self._digest_of[page] = digest

    def free(self, pages: Sequence[int]) -> None:
        """Let go of `pages`. The last of them are evicted first: a prefix is worth more than what follows it."""
        for page in reversed(pages):
            self._holders[page] -= 1
            assert self._holders[page] >= 0, f"page {page} was freed twice"
            if self._holders[page]:
                continue
            if page in self._digest_of:
                self._kept[page] = None
            else:
                self._blank.append(page)

    def check_integrity(self, held: Iterable[Sequence[int]]) -> None:
        """Assert that the books agree with `held`, the pages of each running request."""
        holders = Counter(page for pages in held for page in pages)
        assert self._holders == [holders[page] for page in range(self.num_pages)], "holders are miscounted"
        free = [*self._blank, *self._kept]
        assert sorted(free) == [page for page in range(self.num_pages) if not holders[page]], "a page leaked"
        assert {page: digest for digest, page in self._page_of.items()} == self._digest_of
        assert all(page in self._digest_of for page in self._kept)
        assert not any(page in self._digest_of for page in self._blank)
        assert all(page in self._digest_of for page, count in holders.items() if count > 1), "an open page is shared"

    def _take_blank(self, most: int) -> list[int]:
        """Free pages without contents, as far as there are any."""
        start = max(len(self._blank) - most, 0)
        pages = self._blank[start:]
        del self._blank[start:]
        return pages[::-1]

    def _take_kept(self) -> int:
        """The page freed longest ago, whose contents are lost."""
        page = next(iter(self._kept))
        del self._kept[page]
        del self._page_of[self._digest_of.pop(page)]
        return page
