"""Storage on a real object store: moto's S3 server, over HTTP."""

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import boto3
import pandas as pd
import pytest
from s3fs import S3FileSystem

from fleet_pipeline.common.errors import StorageError, StorageUnavailable
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.ingest.backlog import read_backlogs
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.deployment import eventually
from fleet_pipeline_tests.support.http import free_port
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance

READ_ONLY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}],
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """In a process of its own: vLLM cannot start in one that has imported Flask, whose global proxies refuse to
    be looked at ("Working outside of application context").
    """
    port = free_port()
    program = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port), "moto's server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of a bucket of this test alone."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    _sign_in(monkeypatch, "anybody", "s")
    name = f"b{abs(hash(request.node.name))}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/fleet"


def test_what_is_written_to_an_object_store_is_read_back_listed_and_removed(bucket: str) -> None:
    store = Store(bucket)
    assert store.read("a/b.bin") is None
    assert store.names("a", ".bin") == []
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two, longer")
    assert store.read("a/b.bin") == b"two, longer"
    assert store.names("a", ".bin") == ["b"]
    assert [store.read_end("a/b.bin", count) for count in (6, 1_000)] == [b"longer", b"two, longer"]
    assert store.read_end("a/absent.bin", 6) is None
    store.move("a/b.bin", "c/d.bin")
    assert (store.names("a", ".bin"), store.names("c", ".bin")) == ([], ["d"])
    assert store.modified("c/d.bin").tzinfo is not None
    store.delete("c/d.bin")
    store.delete("c/d.bin")
    assert store.names("c", ".bin") == []
    assert store.full_path("c/d.bin") == f"{bucket}/c/d.bin"


def test_a_whole_run_on_an_object_store_goes_on_where_a_broken_one_stopped(bucket: str, pipeline: Pipeline) -> None:
    pipeline.store = Store(bucket)
    pipeline.configure(storage=bucket)
    keys = pipeline.put("a", "b", "c")
    assert pipeline.run(keys).success
    rows = pd.read_parquet(f"{bucket}/proposals")
    assert len(rows) == 9
    assert rows.groupby("deliberation_id")["winner"].sum().tolist() == [1, 1, 1]
    pipeline.store.delete("utterances/b.dev.parquet")
    pipeline.asked = []
    assert pipeline.run(keys).success
    assert len(pipeline.asked) == 9


def test_an_object_store_that_may_only_be_read_is_a_clear_error_and_nothing_passing(
    bucket: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(bucket).write("a", b"there before")
    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=json.dumps(READ_ONLY))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    _ask_for_permissions(server, from_call=0)
    try:
        _sign_in(monkeypatch, key["AccessKeyId"], key["SecretAccessKey"])
        reader = Store(bucket)
        assert reader.read("a") == b"there before"
        with pytest.raises(StorageError, match=rf"cannot write {bucket}/a: .*[Dd]enied") as caught:
            reader.write("a", b"other")
        assert not isinstance(caught.value, StorageUnavailable)
    finally:
        _ask_for_permissions(server, from_call=1_000_000)
        _sign_in(monkeypatch, "anybody", "s")
    assert Store(bucket).read("a") == b"there before"


def test_a_bucket_that_does_not_exist_is_a_clear_error(bucket: str) -> None:
    with pytest.raises(StorageError, match="cannot write s3://there-is-none/a"):
        Store("s3://there-is-none").write("a", b"")


def test_an_object_store_that_does_not_answer_may_answer_later(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    _sign_in(monkeypatch, "anybody", "s")
    with pytest.raises(StorageUnavailable, match="cannot read"):
        Store(bucket).read("a")


def _sign_in(monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    S3FileSystem.clear_instance_cache()  # drivers are remembered, and with them who signed in


def _ask_for_permissions(server: str, from_call: int) -> None:
    request = urllib.request.Request(f"{server}/moto-api/reset-auth", data=str(from_call).encode())
    request.add_header("Content-Type", "text/plain")
    urllib.request.urlopen(request, timeout=10).close()


def test_backlogs_that_are_put_or_changed_on_an_object_store_are_seen_by_the_next_look(bucket: str) -> None:
    """Drivers remember listings: a schedule's ticks run in a process that lives for weeks."""
    store = Store(f"{bucket}/backlogs")

    def task(name: str) -> bytes:
        return f'{{"task_id": "{name}", "description": "d"}}\n'.encode()

    def seen(location: str) -> list[str]:
        found = read_backlogs(location, BUILT_IN_ROLES).values()
        assert not [refusal for backlog in found for refusal in backlog.refused]
        return [one.task_id for backlog in found for one in backlog.tasks]

    store.write("a.jsonl", task("t1"))
    assert seen(store.url) == seen(f"{store.url}/*.jsonl") == seen(f"{store.url}/a.jsonl") == ["t1"]
    store.write("a.jsonl", task("another-name"))
    store.write("b.jsonl", task("t2"))
    assert seen(store.url) == seen(f"{store.url}/*.jsonl") == ["another-name", "t2"]
    assert seen(f"{store.url}/a.jsonl") == ["another-name"]
