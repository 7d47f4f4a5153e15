"""Validates manifests against the schemas that the Kubernetes project publishes, without a cluster."""

import re
from collections.abc import Iterator
from typing import Any

from fleet_pipeline.scoring.code_checks.parsers import yaml_documents

VERSION = "1.33"
# A model wrote these values, and the schema library uses both in a file name.
_KIND = re.compile(r"[A-Za-z]{1,80}")
_API_VERSION = re.compile(r"[a-z0-9.-]{1,100}(/[a-z0-9]{1,20})?")


def manifests(code: str) -> list[tuple[int, dict[str, Any]]]:
    """(line, object) of every document with an `apiVersion` and a `kind`. Raises what the YAML library raises."""
    return [
        (line, value)
        for line, value in yaml_documents(code)
        if isinstance(value, dict)
        and _fully_matches(value.get("kind"), _KIND)
        and _fully_matches(value.get("apiVersion"), _API_VERSION)
    ]


def manifest_findings(manifest: dict[str, Any]) -> Iterator[str] | None:
    """The manifest's faults, unknown fields included. None where the kind has no published schema."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        field = ".".join(str(part) for part in error.absolute_path) or "the manifest"
        return iter([f"{manifest['kind']}: {field[:120]}: {error.message[:200]}"])
    except kubernetes_validate.SchemaNotFoundError:
        return None
    return iter(())


def _fully_matches(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))
