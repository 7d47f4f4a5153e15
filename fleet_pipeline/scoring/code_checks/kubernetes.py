"""Kubernetes manifests against the schemas that the project publishes, without a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fleet_pipeline.scoring.code_checks.parsers import yaml_documents

VERSION = "1.33"
# Both become parts of a file's name in the schema library, and a model wrote them.
_KIND = re.compile(r"[A-Za-z]{1,80}")
_API_VERSION = re.compile(r"[a-z0-9.-]{1,100}(/[a-z0-9]{1,20})?")


def manifests(code: str) -> list[tuple[int, dict[str, Any]]]:
    """(line, object) of everything with an `apiVersion` and a `kind`. Raises what YAML raises."""
    return [
        (line, value)
        for line, value in yaml_documents(code)
        if isinstance(value, dict)
        and _named(value.get("kind"), _KIND)
        and _named(value.get("apiVersion"), _API_VERSION)
    ]


def manifest_findings(manifest: dict[str, Any]) -> Iterator[str] | None:
    """What is wrong, unknown fields included; None where the kind has no published schema."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the manifest"
        return iter([f"{manifest['kind']}: {where[:120]}: {error.message[:200]}"])
    except kubernetes_validate.SchemaNotFoundError:
        return None
    return iter(())


def _named(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))
