"""Options of tools: who may call which families, and what they may reach."""

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fleet_pipeline.common.strict_model import StrictModel

FamilyName = Annotated[str, Field(pattern=r"[a-z][a-z0-9_-]{0,40}")]
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_.-]+(:\d{1,5})?|\[[0-9a-f:]+\](:\d{1,5})?")


class LimitOptions(StrictModel):
    """Bounds of one call that starts a program; all its processes together."""

    seconds: float = Field(default=300.0, gt=0, le=7_200)
    memory_mib: int = Field(default=2_048, ge=64, le=1_048_576)
    processes: int = Field(default=512, ge=4, le=16_384, description="With their threads.")
    disk_mib: int = Field(default=1_024, ge=1, le=1_048_576, description="What the workspace may hold afterwards.")
    output_kib: int = Field(default=256, ge=4, le=16_384, description="Of its output; the rest is dropped.")


class HttpOptions(StrictModel):
    """What the http family may reach: nothing, until hosts are named."""

    hosts: tuple[str, ...] = Field(
        default=(), max_length=1_000, description="Names, such as api.example.com, *.example.com or host:8443."
    )
    private_networks: tuple[str, ...] = Field(
        default=(),
        max_length=100,
        description="Networks of your own that these names may lead to, such as 10.1.0.0/16.",
    )
    seconds: float = Field(default=30.0, gt=0, le=600)
    response_kib: int = Field(default=1_024, ge=1, le=65_536)
    request_kib: int = Field(default=1_024, ge=1, le=65_536)

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host; name one as api.example.com, *.example.com or host:8443")
        return tuple(host.lower() for host in value)

    @field_validator("private_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value


class DatabaseOptions(StrictModel):
    """One database that the db family may use, under a name. Its address stays in the environment: it may hold a password."""

    kind: Literal["postgresql", "redis", "neo4j"]
    url_env: str = Field(pattern=r"[A-Za-z_][A-Za-z0-9_]*", description="The environment variable with its URL.")
    writable: bool = Field(default=False, description="Whether it may be changed, where the call may change anything.")


class McpOptions(StrictModel):
    """A server of the Model Context Protocol, whose tools are a family under its name."""

    command: tuple[str, ...] = Field(
        default=(),
        max_length=100,
        description="Program and arguments: started in the sandbox, on the workspace's tree, without network.",
    )
    url: str | None = Field(default=None, description="Or the address of one that runs: it sees what is sent to it.")
    seconds: float = Field(
        default=60.0, gt=0, le=3_600, description="Of one call, and for the server to answer at all."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("give command, or url")
        if self.url is not None and (urlsplit(self.url).scheme not in ("http", "https") or urlsplit(self.url).username):
            raise ValueError(f"{self.url[:100]!r}: expected an http or https URL without credentials")
        return self


class ToolOptions(StrictModel):
    """What tools may do. Without any setting: files, git and tests in a workspace, and nothing outside of it."""

    roles: dict[str, tuple[FamilyName, ...]] = Field(
        default={
            "ARCHITECT": ("files", "git", "db", "http"),
            "QA": ("files", "tests", "http"),
            "DEV": ("files", "git", "tests"),
            "DEVOPS": ("docker", "files", "http", "tests"),
            "DATA": ("db", "files", "tests"),
        },
        description="The families of each role; a role that is not named has files alone.",
    )
    limits: LimitOptions = LimitOptions()
    http: HttpOptions = HttpOptions()
    databases: dict[str, DatabaseOptions] = Field(default_factory=dict, description="By the names that calls use.")
    mcp: dict[FamilyName, McpOptions] = Field(default_factory=dict, description="By the names of their families.")
    images: tuple[str, ...] = Field(
        default=(),
        max_length=1_000,
        description="Container images that the docker family may run, by their full names.",
    )
    toolchains: tuple[str, ...] = Field(
        default=(), max_length=32, description="Folders that programs may read as well, such as /opt/go."
    )
    sources: tuple[str, ...] = Field(
        default=(),
        max_length=1_000,
        description="Where agents' workspaces may start from: beginnings of URLs, such as https://git.example.com/team/, and folders.",
    )
    at_once: int = Field(default=8, ge=1, le=1_024, description="Calls of a run's agents that are made at a time.")
    workspace_mib: int = Field(default=1_024, ge=1, le=1_048_576, description="The largest workspace that is taken.")
    workspaces: str = Field(
        default=".fleet/workspaces", min_length=1, description="The folder for workspaces, on a local disk."
    )

    @field_validator("sources")
    @classmethod
    def _are_urls_or_folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for source in value:
            is_url = urlsplit(source).scheme in ("https", "ssh") and bool(
                urlsplit(source).path.strip("/") or source.endswith("/")
            )
            if not is_url and not source.startswith("/"):
                raise ValueError(
                    f"{source!r}: name the beginning of a URL with its host and a /, or an absolute folder"
                )
        return value

    @field_validator("toolchains")
    @classmethod
    def _are_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for folder in value:
            if not folder.startswith("/") or folder == "/":
                raise ValueError(f"{folder!r}: name an absolute folder, such as /opt/go")
        return value

    def families_of(self, role: str) -> tuple[str, ...]:
        return self.roles.get(role.upper(), ("files",))
