"""Keys, user credentials and certificates for a broker. Each test makes its own."""

import base64
import hashlib
import ipaddress
import json
import os
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Key:
    """An NKey pair. `seed` is the secret, `public` names its owner."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self.pair.public_key.decode()

    def sign(self, subject: str, name: str, **nats: Any) -> str:
        """A JWT for nats-server: signed by this key, about `subject`."""
        claims = {
            "iat": int(time.time()),
            "iss": self.public,
            "name": name,
            "sub": subject,
            "nats": {"version": 2} | nats,
        }
        claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
        parts = [_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
        return ".".join([*parts, _base64(self.pair.sign(".".join(parts).encode()))])


def user_key() -> Key:
    return Key(nkeys.PREFIX_BYTE_USER)


def jwt_server(folder: Path) -> tuple[str, Path]:
    """Returns (configuration of a server that trusts an operator, .creds file of a user in the operator's account)."""
    operator, account, user = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT), user_key()
    limits = dict.fromkeys(
        (
            "subs",
            "data",
            "payload",
            "imports",
            "exports",
            "conn",
            "leaf",
            "mem_storage",
            "disk_storage",
            "streams",
            "consumer",
        ),
        -1,
    )
    operator_jwt = operator.sign(operator.public, "operator", type="operator")
    account_jwt = operator.sign(account.public, "account", type="account", limits=limits | {"wildcards": True})
    user_jwt = account.sign(user.public, "user", type="user", subs=-1, data=-1, payload=-1)
    credentials = folder / "user.creds"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return (
        f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account.public}: {account_jwt} }}",
        credentials,
    )


def certificates(folder: Path) -> Path:
    """Write `ca.pem` and the `server` and `client` certificates that it signed, with their keys. Returns `folder`."""
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    root = _certificate(name, name, authority.public_key(), constraints).sign(authority, hashes.SHA256())
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    for owner in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = _certificate(subject, name, key.public_key(), names).sign(authority, hashes.SHA256())
        (folder / f"{owner}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (folder / f"{owner}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return folder


def server_context(folder: Path) -> ssl.SSLContext:
    """Of a server with the certificate in `folder`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


def _certificate(subject: x509.Name, issuer: x509.Name, key: Any, extension: Any) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(extension, critical=False)
    )


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
