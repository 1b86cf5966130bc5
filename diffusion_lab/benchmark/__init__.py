"""Speed and memory held against the plain way of doing the same, side by side in one process tree.

A file for each kind of measurement. Nothing is imported here: children that are timed from their
start must not pay for it.
"""
