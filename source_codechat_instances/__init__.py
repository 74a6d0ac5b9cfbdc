"""The same source for Airbyte: ``source-codechat-instances`` with ``spec``, ``check``, ``discover`` and ``read``.

It runs the tap in its own process and turns its Singer lines into Airbyte's messages. The tap knows nothing of it.

``catalog``: what the tap declares, as Airbyte's spec and catalog, and a configured catalog as a Singer catalog.
``messages``: the tap's writer, which writes Airbyte's messages, and the log handler. ``source``: the four commands.
"""
