"""Which businesses are read: the ones in the settings, completed or replaced by the server's own list.

Pure functions: :mod:`tap_instances.client` fetches the list, :mod:`tap_instances.tap` knows the settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tap_instances.redact import scrub
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
    live = _from_list([item for item in listed if not item.get("deletedAt")])
    if not named:
        return list(live.values())
    known = _from_list([item for item in listed if item.get("deletedAt")]) | live
    known |= {business_id: Business(business_id, token) for business_id, token in named.items() if token}
    not_listed = "the server does not list it: check its business_id, or set its auth_token"
    return [known.get(business_id) or Business(business_id, "", not_listed) for business_id in named]


def _from_list(items: Sequence[Mapping[str, Any]]) -> dict[str, Business]:
    """Return id -> the business with its token, or with the problem that keeps it from being read."""
    businesses: dict[str, Business] = {}
    for number, item in enumerate(items, 1):
        business_id: Any = item.get("businessId")
        token: Any = item.get("businessToken")
        problem = ""
        if not _is_valid(business_id, BUSINESS_ID):
            problem = "its businessId in the server's list is not a valid id: ask the server's operator"
            shown = scrub(ascii(business_id)[1:-1])[:MAX_NAME] if isinstance(business_id, str) else ""
            business_id = shown or f"number {number}"
        elif business_id in businesses:
            problem = "the server lists it more than once: set its auth_token"
        elif token is None or token == "":
            problem = "the server lists no token for it: set its auth_token"
        elif not _is_valid(token, TOKEN):
            problem = "its token in the server's list is not a valid one: set its auth_token"
        businesses[business_id] = Business(business_id, token, problem)
    return businesses


def _is_valid(value: object, rule: str) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(rule, value))
