"""Which businesses are read: the ones in the settings, completed or replaced by the server's own list.

Pure functions: :mod:`tap_instances.client` fetches the list, :mod:`tap_instances.tap` knows the settings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from typing_extensions import override

from tap_instances.redact import MASK
from tap_instances.settings import BUSINESS_ID, TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_NAME: Final = 100  # characters of an invalid id that are shown


class Business(NamedTuple):
    """A business to read: its id, its bearer token, and why it cannot be read, if that is known already."""

    id: str
    token: str
    problem: str = ""

    @override
    def __repr__(self) -> str:
        return f"Business(id={self.id!r}, token='{MASK}', problem={self.problem!r})"


class ListedBusiness(NamedTuple):
    """An item of the server's list. ``id`` and ``token`` are as listed, of whatever type."""

    id: Any
    token: Any
    deleted: bool

    @override
    def __repr__(self) -> str:
        return f"ListedBusiness(id={self.id!r}, token='{MASK}', deleted={self.deleted})"


def is_business_id(value: object) -> bool:
    """Return whether a value can be a business's id, by the rule of the setting."""
    return isinstance(value, str) and bool(re.fullmatch(BUSINESS_ID, value))


def is_token(value: object) -> bool:
    """Return whether a value can be a token, by the rule of the setting."""
    return isinstance(value, str) and bool(re.fullmatch(TOKEN, value))


def find_tokens(named: Mapping[str, str | None], listed: Sequence[ListedBusiness]) -> list[Business]:
    """Return the named businesses in their order; those without a token get the one in the server's list."""
    by_id = _by_id(listed)
    return [
        Business(business_id, token) if token else _from_list(business_id, by_id.get(business_id, []))
        for business_id, token in named.items()
    ]


def all_listed(listed: Sequence[ListedBusiness]) -> list[Business]:
    """Return every business of the server's list that is not deleted, in its order, each id once."""
    live = [item for item in listed if not item.deleted]
    by_id = _by_id(live)
    businesses = []
    for number, item in enumerate(live, 1):
        if not is_business_id(item.id):
            name = ascii(item.id)[1:-1][:MAX_NAME] if isinstance(item.id, str) and item.id else f"number {number}"
            problem = "its businessId in the server's list is not a valid id: ask the server's operator"
            businesses.append(Business(name, "", problem))
        elif entries := by_id.pop(item.id, None):  # the first of its id
            businesses.append(_from_list(item.id, entries))
    return businesses


def _by_id(listed: Sequence[ListedBusiness]) -> dict[str, list[ListedBusiness]]:
    by_id: dict[str, list[ListedBusiness]] = {}
    for item in listed:
        if isinstance(item.id, str):
            by_id.setdefault(item.id, []).append(item)
    return by_id


def _from_list(business_id: str, entries: Sequence[ListedBusiness]) -> Business:
    """Return the business with its token in the list, or with the problem that keeps it from being read.

    A deleted entry counts only if there is no other.
    """
    tokens = [item.token for item in entries if not item.deleted] or [item.token for item in entries]
    if not tokens:
        problem = "the server does not list it: check its business_id, or set its auth_token"
    elif len(tokens) > 1:
        problem = "the server lists it more than once: set its auth_token"
    elif tokens[0] is None or tokens[0] == "":
        problem = "the server lists no token for it: set its auth_token"
    elif not is_token(tokens[0]):
        problem = "its token in the server's list is not a valid one: set its auth_token"
    else:
        return Business(business_id, tokens[0])
    return Business(business_id, "", problem)
