"""What to do about an error of the broker, or of the way to it: a sentence for each kind."""

from fleet_pipeline.events.options import NatsOptions

NO_TLS = "the broker offers no encryption (TLS), and nothing was sent to it"

# (what the error says, in lower case; what to do). The first that fits is taken.
_REMEDIES = (
    (
        NO_TLS.lower(),
        "turn TLS on in the broker; or, on a network you trust, ask for none: nats:// and no nats.tls_ files",
    ),
    ("authorization violation", ""),  # depends on the options
    ("authentication", ""),
    ("permissions violation", "give this user the rights that docs/operations.md lists"),
    (
        "certificate",
        "set nats.tls_ca_file to the certificate that vouches for the broker, and the files that it asks for",
    ),
    ("serviceunavailable", "JetStream is off there: start nats-server with -js, or turn it on in its configuration"),
    (
        "insufficient resources",
        "its storage is full: raise max_file_store, or remove what nobody needs (`nats stream purge`)",
    ),
    (
        "insufficient storage",
        "its storage is full: raise max_file_store, or remove what nobody needs (`nats stream purge`)",
    ),
    (
        "maximum messages exceeded",
        "the stream is full: raise its limits (`nats stream edit`), or take what waits in it",
    ),
    ("maximum bytes exceeded", "the stream is full: raise its limits (`nats stream edit`), or take what waits in it"),
    (
        "expecting info message",
        "it hung up in the handshake, or is no NATS broker: correct nats.url; its log says more",
    ),
    ("json parse error", "it is no NATS broker: correct nats.url"),
    (
        "connectionreset",
        "it hung up in the handshake: it may be starting, full, or want TLS (tls://); its log says more",
    ),
    (
        "connection lost",
        "it hung up in the handshake: it may be starting, full, or want TLS (tls://); its log says more",
    ),
    ("no servers available", "nobody answers there: start it, or correct nats.url"),
    ("connect call failed", "nobody answers there: start it, or correct nats.url"),
    ("connection refused", "nobody answers there: start it, or correct nats.url"),
    ("name or service not known", "there is no host of that name: correct nats.url"),
    ("not acknowledged", "it is there and does not answer in time: its log says why"),
)
_LOGINS = "nats.user and nats.password, nats.token, nats.credentials_file or nats.nkey_seed_file"


def remedy(error: Exception, detail: str, options: NatsOptions) -> str:
    """What to do, or "" where nobody has seen this error before. `detail` is the text that is shown of it."""
    said = f"{type(error).__name__}: {detail}".lower()
    if "authorization violation" in said or "authentication" in said:
        given = (
            options.user
            or options.token
            or options.credentials_file
            or options.nkey_seed_file
            or "@" in (options.url or "")
        )
        return f"it refuses this login: correct {_LOGINS}" if given else f"it asks for a login: set {_LOGINS}"
    return next((what_to_do for mark, what_to_do in _REMEDIES if mark in said), "")
