"""The broker's address, and the credentials for it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from fleet_pipeline.common.strict_model import StrictModel


class NatsOptions(StrictModel):
    """Where events go and come from. Nothing is sent, and no request taken, without a URL.

    Secrets are masked wherever the settings are shown, and are never part of a run's record. Where a
    file can hold one, name the file.
    """

    url: str | None = Field(
        default=None, repr=False, description="nats://host:port, or tls://host:port; several with commas."
    )
    user: str | None = Field(default=None, description="User name, with a password.")
    password: SecretStr | None = Field(default=None, description="Its password.")
    token: SecretStr | None = Field(default=None, description="A token instead of user and password.")
    credentials_file: str | None = Field(default=None, description="A .creds file: user JWT and NKey seed.")
    nkey_seed_file: str | None = Field(default=None, description="A file with an NKey seed.")
    inbox_prefix: str = Field(
        default="_INBOX",
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        description="Where answers to this user come; one of its own keeps others from reading them.",
    )
    tls_ca_file: str | None = Field(default=None, description="Certificates to trust; the system's when absent.")
    tls_cert_file: str | None = Field(default=None, description="Certificate that the broker may ask for.")
    tls_key_file: str | None = Field(default=None, description="Its key.")

    @field_validator("url")
    @classmethod
    def _can_be_parsed(cls, value: str | None) -> str | None:
        if not value:
            return None
        for server in value.split(","):
            try:
                parts = urlsplit(server.strip())
                if not parts.hostname or parts.port == 0 or parts.scheme not in ("nats", "tls", "ws", "wss"):
                    raise ValueError
            except ValueError:
                raise ValueError("expected a URL such as nats://host:4222") from None
        return value

    @field_validator("credentials_file", "nkey_seed_file", "tls_ca_file", "tls_cert_file", "tls_key_file")
    @classmethod
    def _file_exists(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).is_file():
            raise ValueError(f"{value} is not a file")
        return value

    @model_validator(mode="after")
    def _one_login_method(self) -> NatsOptions:
        methods = [name for name in ("user", "token", "credentials_file", "nkey_seed_file") if getattr(self, name)]
        if len(methods) > 1:
            raise ValueError(f"{' and '.join(methods)} are given; one of them is enough")
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password belong together")
        if self.tls_key_file and not self.tls_cert_file:
            raise ValueError("tls_key_file belongs to a tls_cert_file")
        return self

    @property
    def wants_tls(self) -> bool:
        """Whether the connection must be encrypted before anything is sent: one TLS server or TLS file is enough."""
        encrypted = any(server.startswith(("tls://", "wss://")) for server in self.servers)
        return encrypted or bool(self.tls_ca_file or self.tls_cert_file)

    @property
    def servers(self) -> list[str]:
        return [server.strip() for server in (self.url or "").split(",") if server.strip()]


def without_secrets(url: str) -> str:
    """The URL, or several separated by commas, without credentials: safe to log."""
    shown = []
    for server in url.split(","):
        parts = urlsplit(server.strip() if "://" in server else f"nats://{server.strip()}")
        shown.append(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    return ",".join(shown)
