"""Exports of the whole record, and an Atom feed of what is new."""
