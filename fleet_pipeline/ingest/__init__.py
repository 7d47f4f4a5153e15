"""Strict reading of what people and services send: backlogs, requests, roles files.

The result is a `Task`, or a refusal that names the line, the field and the remedy. Not here: receiving messages
(`events`) and storing data (`storage`).
"""
