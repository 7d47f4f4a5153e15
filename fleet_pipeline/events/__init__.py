"""Events and requests on NATS: their format, their streams, and their transport.

    envelope, payloads     the format of an event, and the fields of each kind
    options, connection    the broker's address and credentials; connecting to it
    streams                the JetStream streams that must exist
    completions            events made from the rows of a finished deliberation
    publisher              sends events and waits for acks; `subscriber` watches them arrive
    receiver               takes requests, pulled by `consumer`
    lookup                 reads requests and lists events, without taking any
    embedded               a local broker for demo and tests

Not here: the content of a request (`ingest.requests`) and its handling (`services.intake`).
"""
