"""Events and requests: what they say, where they go, and how they get there.

`envelope` is the form of all of them and `payloads` what they hold; `options` and `connection` lead to the
broker, and `streams` declares what must be there. Out: `completions` builds events from rows, `publisher` sends
and waits for acks, `subscriber` watches them arrive, `audit` reads what the streams hold. In: `requests` reads
messages, `intake` takes them by way of `pull`, `lookup` looks without taking. `service` answers questions;
`embedded` runs a broker of one's own.
"""
