"""Events and requests on NATS: what they say, where they go, and how they get there.

    envelope, payloads     the form of an event, and what each kind holds
    options, connection    how the broker is reached, and as whom
    streams                the JetStream streams that must be there
    completions            rows of a finished deliberation as events
    publisher              sends them and waits for acks; `subscriber` watches them arrive
    audit                  which events the streams hold
    receiver               takes requests, by way of `consumer`; `lookup` looks without taking
    embedded               a broker of one's own

Not here: what a request says (`ingest.requests`), and what is done about it (`services.intake`).
"""
