"""Whether a response holds a part of a list only: the rest must never read as disconnected or deleted."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

# What keys are made of by which servers tell that a list comes in pages: "nextPage", "total_pages", "meta".
WORDS: Final = re.compile(
    r"(next|has|more|is|last|page|pages|pageinfo|paging|pagination|meta|metadata|links|cursor|token|url|link|offset"
    r"|total|num|number|count|records|items|elements|limit|size|per|[-_])+"
)
REL_NEXT: Final = re.compile(r"""\brel\s*=\s*["']?[^"',;]*\bnext\b""")  # in a Link header


def links_to_next(header: str) -> bool:
    """Return whether a ``Link`` header has a link with the relation ``next``."""
    return bool(REL_NEXT.search(re.sub(r"<[^>]*>", "", header.lower())))


def next_page_key(top: dict[str, Any], path: str = "") -> str:
    """Return the path of the key that tells of more pages than this one, or an empty string."""
    names = {key: name for key in top if WORDS.fullmatch(name := key.lower())}
    size = max((_number(top[key]) for key, name in names.items() if re.search("limit|size|per", name)), default=0)
    for key, name in names.items():
        value = top[key]
        if "links" in name and isinstance(value, list):
            value = {str(link.get("rel")): link.get("href") for link in value if isinstance(link, dict)}
        is_next = "next" in name or "more" in name
        if isinstance(value, dict) and not is_next:
            if found := next_page_key(value, f"{path}{key}."):
                return found
        elif (
            (is_next and _is_given(value))
            or ("last" in name and value is False)
            or (re.search("pages|page[-_]?count|last[-_]?page", name) and _number(value) > 1)
            or ("total" in name and _number(value) > size > 0)
        ):
            return f"{path}{key}"
    return ""


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
