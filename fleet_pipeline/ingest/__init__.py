"""What people and services send, read strictly: backlogs, requests, roles files.

What is read is a `Task`, or a refusal that names the line, the field and the remedy. Not here: how messages arrive
(`events`), and what is kept (`storage`).
"""
