"""tap-instances: a Singer tap for CodeChat, a WhatsApp gateway.

A value's way, in one direction: ``client`` (one request a business, whole bodies) -> ``streams`` (page by page)
-> ``records`` (an API object becomes a row) -> ``changes`` (is it new?) -> stdout. ``tap`` holds the settings.
"""
