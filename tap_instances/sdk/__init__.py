"""Where this tap departs from the SDK: every override of its parts, each with its reason. docs/design.md lists them.

The SDK syncs a child stream once per parent record, with a SCHEMA, log lines and a pass over the state each time. This
source gives parents and children in one body, so a run walks it once, a page at a time, and each stream writes
its rows of a page. What remains the SDK's: catalog, selection, SCHEMA messages, stream maps, flattening,
batches' files, metrics, the command line.

``stream`` -> ``writer`` -> ``output`` -> stdout; ``tap`` has what concerns all streams, and the command line.
"""
