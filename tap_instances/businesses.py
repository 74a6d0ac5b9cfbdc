"""Which businesses are read: the ones in the settings, completed or replaced by the server's own list.

Pure functions: :mod:`tap_instances.client` fetches the list, :mod:`tap_instances.tap` knows the settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tap_instances.settings import BUSINESS_ID, TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_NAME: Final = 100  # characters of an invalid id that are shown


@dataclass(frozen=True)
class Business:
    """A business to read: its id, its bearer token, and why it cannot be read, if that is known already."""

    id: str
    token: str = field(repr=False)
    problem: str = ""


def find_businesses(named: Mapping[str, str | None], listed: Sequence[Mapping[str, Any]]) -> list[Business]:
    """Return the named businesses (id -> token), or if none is named, those in the server's list that are not deleted.

    A missing token is the one in the list. The order is that of ``named``, or of the list.
    """
    if not named:
        listed = [item for item in listed if item.get("deletedAt") is None]
    items: dict[str, list[Mapping[str, Any]]] = {}
    for number, item in enumerate(listed, 1):
        items.setdefault(_name(item, number), []).append(item)
    return [
        Business(business_id, token) if token else _from_list(business_id, items.get(business_id, []))
        for business_id, token in (named or dict.fromkeys(items)).items()
    ]


def _name(item: Mapping[str, Any], number: int) -> str:
    """Return a listed business's id; if it is not valid, what can stand for it in a line."""
    business_id = item.get("businessId")
    if _is_valid(business_id, BUSINESS_ID):
        return str(business_id)
    return ascii(business_id)[1:-1][:MAX_NAME] if business_id and isinstance(business_id, str) else f"number {number}"


def _is_valid(value: object, rule: str) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(rule, value))


def _from_list(business_id: str, items: Sequence[Mapping[str, Any]]) -> Business:
    """Return the business with its token in the list, or with the problem that keeps it from being read.

    A deleted item counts only if there is no other.
    """
    live = [item for item in items if item.get("deletedAt") is None]
    tokens = [item.get("businessToken") for item in live or items]
    if not tokens:
        problem = "the server does not list it: check its business_id, or set its auth_token"
    elif not _is_valid(items[0].get("businessId"), BUSINESS_ID):
        problem = "its businessId in the server's list is not a valid id: ask the server's operator"
    elif len(tokens) > 1:
        problem = "the server lists it more than once: set its auth_token"
    elif tokens[0] is None or tokens[0] == "":
        problem = "the server lists no token for it: set its auth_token"
    elif not _is_valid(tokens[0], TOKEN):
        problem = "its token in the server's list is not a valid one: set its auth_token"
    else:
        return Business(business_id, tokens[0])
    return Business(business_id, "", problem)
