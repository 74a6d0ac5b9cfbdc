"""Where this tap departs from the SDK: overrides, each with its reason. docs/design.md lists them.

``stream`` -> ``writer`` -> stdout; ``tap`` has what concerns all streams, and the command line.
"""
