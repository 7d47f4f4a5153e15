"""`fleet prune`."""

import json
import re

import click

from fleet_pipeline.cli.common import flags, json_option, storage_option
from fleet_pipeline.common.errors import COMPLETED
from fleet_pipeline.settings import load_settings

MOST_NAMED = 20
_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


@click.command()
@click.option("--older-than", metavar="AGE", help="What finished longer ago goes: 12h, 30d, 8w. Default: the settings.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Only so many stay, the newest.")
@click.option("--apply", "really", is_flag=True, help="Remove it. Without this nothing is removed.")
@storage_option
@json_option
def prune(older_than: str | None, keep: int | None, really: bool, storage: str | None, as_json: bool) -> None:
    """Show what is old, and with --apply remove it: results, specs, partitions, run records.

    What is unfinished stays: asked for and not run, queued, or under way. With [retention] set, the
    schedule `retention` does the same every week.

    \b
    fleet prune --older-than 30d
    fleet prune --older-than 30d --apply
    fleet prune --keep 20000 --apply --json
    """
    from fleet_pipeline.instance.home import open_instance
    from fleet_pipeline.services.fleet import Fleet
    from fleet_pipeline.services.retention import find_old, remove

    overrides = flags(storage=storage, retention__max_age_days=_days(older_than), retention__max_count=keep)
    if "retention" in overrides:  # one flag replaces both limits of the settings
        overrides["retention"] = {"max_age_days": None, "max_count": None} | overrides["retention"]
    settings = load_settings(overrides)
    fleet = Fleet.of(settings)
    with open_instance() as instance:
        old = find_old(instance, fleet.tasks, fleet.inbox, settings.retention, settings.nats)
        on_progress = (lambda count: None) if as_json else (lambda count: click.echo(f"{count} removed", err=True))
        removed = remove(instance, fleet.tasks, fleet.inbox, old, on_progress) if really else None
    spared = set(removed.spared) if removed else set()
    if as_json:
        document = {
            "removed": really,
            "deliberations": {key: time.isoformat() for key, time in old.deliberations.items() if key not in spared},
            "runs": list(old.runs),
            "files": [*old.files, *old.inbox],
            "unfinished": [*old.unfinished, *spared],
        }
        click.echo(json.dumps(document, indent=2))
        return
    going = {key: time for key, time in old.deliberations.items() if key not in spared}
    for key, time in list(going.items())[:MOST_NAMED]:
        click.echo(f"  {time:%Y-%m-%d %H:%M}  {key}")
    if len(going) > MOST_NAMED:
        click.echo(f"  ... and {len(going) - MOST_NAMED} more (--json lists all)")
    files = len(old.files) + len(old.inbox)
    amounts = f"{len(going)} deliberations, {len(old.runs)} run records, {files} other files"
    click.echo(f"removed: {amounts}" if really else f"would be removed: {amounts}; nothing was (--apply removes)")
    if kept := [*old.unfinished, *spared]:
        rest = f" and {len(kept) - MOST_NAMED} more" if len(kept) > MOST_NAMED else ""
        click.echo(f"left alone, since they are unfinished: {', '.join(kept[:MOST_NAMED])}{rest}")
    raise SystemExit(COMPLETED)


def _days(age: str | None) -> float | None:
    if age is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age.strip())
    if not match or not float(match[1]):
        raise click.BadParameter("expected an age such as 12h, 30d or 8w", param_hint="--older-than")
    return float(match[1]) * _DAYS[match[2]]
