"""Whether a response holds a part of a list only: the rest must never read as disconnected or deleted."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

# Keys, in lower case without "-" and "_", by which servers tell that a list comes in pages.
NEXT: Final = re.compile(
    r"next(page)?(url|link|cursor|token|offset|number)?|has(next|more)(pages?)?|more|(is)?truncated"
)
PAGES: Final = re.compile(r"(total|num)?pages(total)?|pagecount|(last|max)page")
LAST: Final = re.compile(r"(is)?last(page)?")
TOTAL: Final = re.compile(r"total(records|items|count|elements)?|count")
SIZE: Final = re.compile(r"limit|(per|itemsper)page|pagesize")
PAGING: Final = re.compile(r"pagination|paging|meta(data)?|pages?|pageinfo|links|cursor")  # objects of such keys
# The parameters of a Link header, quoted or not. (requests' parser ends at a title with "=" in it.)
PARAMETER: Final = re.compile(r"""[;,]\s*([^\s=;,<"']+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^\s;,]*)""")


def links_to_next(header: str) -> bool:
    """Return whether a ``Link`` header has a link with the relation ``next``."""
    parameters = PARAMETER.findall(re.sub(r"<[^>]*>", "", header.lower()))
    return any(name == "rel" and "next" in value.strip("\"'").split() for name, value in parameters)


def next_page_key(top: dict[str, Any], path: str = "") -> str:
    """Return the path of the key that tells of more pages than this one, or an empty string."""
    folded = {key: key.lower().replace("-", "").replace("_", "") for key in top}
    sizes = [_number(top[key]) for key, name in folded.items() if SIZE.fullmatch(name)]
    for key, name in folded.items():
        value = top[key]
        if isinstance(value, dict) and PAGING.fullmatch(name):
            if found := next_page_key(value, f"{path}{key}."):
                return found
        elif (
            (NEXT.fullmatch(name) and _is_given(value))
            or (PAGES.fullmatch(name) and _number(value) > 1)
            or (LAST.fullmatch(name) and value is False)
            or (name == "links" and _has_next(value))
            or (TOTAL.fullmatch(name) and any(0 < size < _number(value) for size in sizes))
        ):
            return f"{path}{key}"
    return ""


def _has_next(links: Any) -> bool:  # noqa: ANN401
    """Return whether a list of links, as in a body, has one with the relation ``next``."""
    listed = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return any(str(link.get("rel")).lower() == "next" and link.get("href") for link in listed)


def _is_given(value: Any) -> bool:  # noqa: ANN401
    """Return whether a key such as ``nextPage`` or ``hasMore`` says yes."""
    if isinstance(value, dict):
        return any(map(_is_given, value.values()))
    return str(value).strip().lower() not in {"", "0", "false", "none", "null", "[]"}


def _number(value: Any) -> float:  # noqa: ANN401
    """Return a number, or the number that a text spells; 0 for anything else."""
    with suppress(TypeError, ValueError, OverflowError):
        return float(value)
    return 0.0
