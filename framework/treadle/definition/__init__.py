"""Definitions: what people write (YAML, templates, expressions) and how it becomes records.

`load.py` is the way in. Reading a document runs nothing that it names.
"""
