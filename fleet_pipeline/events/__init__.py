"""Events: what they say, where they go, and how they get there.

`envelope` is the form of every event, `completions` builds them from rows, `streams` declares the
JetStream streams, `publisher` sends and waits for acks, `embedded` runs a broker of one's own.
"""
