"""Where this tap departs from the SDK: every override of its parts, each with its reason. docs/design.md lists them.

``stream`` -> ``writer`` -> stdout; ``tap`` has what concerns all streams, and the command line.
"""
