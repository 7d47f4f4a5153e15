"""The interface for other programs: a client and a service on NATS.

Not here: the data behind the answers (`services.status`) and the connection itself (`events.connection`).
"""
