"""How other programs ask: a client and a service on NATS.

Not here: what the answers are made from (`services.status`), and the connection itself (`events.connection`).
"""
