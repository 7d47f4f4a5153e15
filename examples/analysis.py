"""Five questions to ask of the results, with DuckDB and pandas.

    python examples/analysis.py .fleet/storage

The tables are folders of Parquet files; `fleet_pipeline/storage/schemas.py` says what each column means.
"""

from __future__ import annotations

import sys

import duckdb
import pandas as pd


def outcomes(storage: str) -> pd.DataFrame:
    """How did it go, by role: how many completed, how long they took, what they cost?"""
    return duckdb.sql(
        f"""
        select role, status, count(*) as deliberations, round(median(wall_s), 1) as median_seconds,
               round(avg(completion_tokens)) as mean_tokens, round(avg(winner_score), 3) as mean_score
        from read_parquet('{storage}/deliberations/*.parquet')
        group by role, status order by role, status
        """
    ).df()


def winners(storage: str) -> pd.DataFrame:
    """Which perspectives win, of how many proposals that they made?"""
    seats = pd.read_parquet(f"{storage}/proposals", columns=["role", "perspective", "winner", "score", "text"])
    answered = seats[seats["text"].notna()].fillna({"perspective": "(none)"})
    found = answered.groupby(["role", "perspective"]).agg(
        proposals=("winner", "size"), won=("winner", "sum"), mean_score=("score", "mean")
    )
    found["share"] = found["won"] / found["proposals"]
    return found.sort_values(["role", "share"], ascending=[True, False]).round(3).reset_index()


def conformity(storage: str) -> pd.DataFrame:
    """Does revision make councils less diverse? Below 0, they came to resemble each other."""
    return duckdb.sql(
        f"""
        select role, count(*) as councils, round(avg(initial_vendi), 2) as before, round(avg(vendi), 2) as after,
               round(avg(vendi - initial_vendi), 3) as change,
               count(*) filter (where vendi < initial_vendi) as less_diverse
        from read_parquet('{storage}/deliberations/*.parquet')
        where vendi is not null and initial_vendi is not null
        group by role order by change
        """
    ).df()


def costs(storage: str) -> pd.DataFrame:
    """Where do the tokens go, how much comes from the prefix cache, and what was wasted on answers that do not count?"""
    return duckdb.sql(
        f"""
        select phase, count(*) as answers, sum(prompt_tokens) as prompt_tokens,
               round(sum(cached_tokens) / sum(prompt_tokens), 3) as cached_share,
               sum(completion_tokens) as completion_tokens,
               coalesce(sum(completion_tokens) filter (where error_type is not null), 0) as wasted_tokens
        from read_parquet('{storage}/utterances/*.parquet')
        group by phase order by completion_tokens desc
        """
    ).df()


def gaps(storage: str) -> pd.DataFrame:
    """Which requirements and criteria do even the winners leave uncovered?"""
    return duckdb.sql(
        f"""
        with points as (
            select deliberation_id, unnest(evidence) as point
            from read_parquet('{storage}/proposals/*.parquet') where winner
        )
        select deliberation_id, point.kind, point.point, round(point.share, 3) as share
        from points where not point.covered order by share, deliberation_id limit 20
        """
    ).df()


QUESTIONS = (outcomes, winners, conformity, costs, gaps)


def main(storage: str) -> None:
    for question in QUESTIONS:
        print(f"\n{question.__doc__}\n")
        print(question(storage).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".fleet/storage")
