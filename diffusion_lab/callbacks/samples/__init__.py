"""Callbacks that sample while a run trains, within a fraction of its time."""
