"""Whether a response holds a part of a list only: the rest must never read as disconnected or deleted."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

# Keys, in lower case without "-" and "_", by which servers tell that a list comes in pages.
NEXT_KEYS: Final = frozenset(
    {"next", "nextpage", "nextpageurl", "nexturl", "nextlink", "nextcursor", "nextpagetoken", "nexttoken"}
    | {"nextoffset", "nextpagenumber"}
    | {"hasnext", "hasnextpage", "hasmore", "hasmorepages", "more"}
)
PAGES_KEYS: Final = frozenset({"totalpages", "pages", "pagecount", "pagestotal", "numpages", "lastpage"})
TOTAL_KEYS: Final = frozenset({"total", "totalrecords", "totalitems", "totalcount", "totalelements"})
SIZE_KEYS: Final = frozenset({"limit", "perpage", "pagesize", "itemsperpage"})
LAST_KEYS: Final = frozenset({"last", "lastpage", "islast", "islastpage"})
PAGING_KEYS: Final = frozenset(
    {"pagination", "paging", "meta", "metadata", "page", "pages", "pageinfo", "links", "cursor"}
)


# The parameters of a Link header, quoted or not.
_PARAMETER: Final = re.compile(r"""[;,]\s*([^\s=;,<"']+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^\s;,]*)""")


def links_to_next(header: str) -> bool:
    """Return whether a ``Link`` header has a link with the relation ``next``."""
    parameters = _PARAMETER.findall(re.sub(r"<[^>]*>", "", header))
    return any(name.lower() == "rel" and "next" in value.strip("\"'").lower().split() for name, value in parameters)


def next_page_key(top: dict[str, Any], path: str = "") -> str:
    """Return the path of the key that tells of more pages than this one, or an empty string."""
    sizes = [_number(value) for key, value in top.items() if _fold(key) in SIZE_KEYS]
    for key, value in top.items():
        name = _fold(key)
        if isinstance(value, dict) and name in PAGING_KEYS:
            if found := next_page_key(value, f"{path}{key}."):
                return found
        elif (
            (name in NEXT_KEYS and _is_given(value))
            or (name in PAGES_KEYS and _number(value) > 1)
            or (name in LAST_KEYS and value is False)
            or (name == "links" and _has_next(value))
            or (name in TOTAL_KEYS and any(0 < size < _number(value) for size in sizes))
        ):
            return f"{path}{key}"
    return ""


def _has_next(links: Any) -> bool:  # noqa: ANN401
    """Return whether a list of links, as in a body, has one with the relation ``next``."""
    listed = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return any(str(link.get("rel")).lower() == "next" and link.get("href") for link in listed)


def _fold(key: str) -> str:
    return key.lower().replace("-", "").replace("_", "")


def _is_given(value: Any) -> bool:  # noqa: ANN401
    """Return whether a key such as ``nextPage`` or ``hasMore`` says yes."""
    if isinstance(value, dict):
        return any(map(_is_given, value.values()))
    return bool(value) and str(value).strip().lower() not in {"", "0", "false", "null", "none"}


def _number(value: Any) -> Decimal:  # noqa: ANN401
    """Return a number, or the number that a text spells; 0 for anything else."""
    if isinstance(value, (int, Decimal)) or (isinstance(value, str) and value.strip().isdecimal()):
        return Decimal(value)
    return Decimal()
