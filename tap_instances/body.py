"""A response's body in memory, which goes back to the system while the body is read.

So a run's peak is the body, and not the body and what is remembered of all of it (see ``docs/performance.md``).
"""

from __future__ import annotations

import mmap
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from msgspec import Raw

CHUNK: Final = 1 << 20  # bytes
MADV_POPULATE_WRITE: Final = 23  # as Linux names it; Python does not


class Body:
    """The bytes of a body, as :attr:`view`, until :meth:`take` frees them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Take the body's parts as they come."""
        self._memory, size = _allocate(CHUNK), 0
        for chunk in chunks:
            end = size + len(chunk)
            if end > len(self._memory):
                self._grow(end + end // 4)
            self._advise(MADV_POPULATE_WRITE, size, end)  # quicker than page by page
            self._memory[size:end] = chunk
            size = end
        self.view = memoryview(self._memory)[:size]

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def _grow(self, size: int) -> None:
        try:
            self._memory.resize(size)
        except (SystemError, AttributeError):  # only Linux can
            with closing(self._memory) as former:
                self._memory = _allocate(size)
                self._memory[: len(former)] = former[:]

    def take(self, items: Sequence[Raw]) -> Iterator[bytes]:
        """Yield these parts of the body, which follow each other in it, and free what is before the next one."""
        read = freed = 0
        for item in items:
            yield bytes(item)
            read += len(item)
            if read - freed > CHUNK:
                freed = read // mmap.PAGESIZE * mmap.PAGESIZE
                self._advise(mmap.MADV_DONTNEED, 0, freed)

    def _advise(self, advice: int, start: int, end: int) -> None:
        start -= start % mmap.PAGESIZE
        with suppress(OSError):  # a system that does not do so is no reason to fail
            self._memory.madvise(advice, start, end - start)


def _allocate(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)  # pages of shared memory could not be freed
