"""Which content an object refers to: what its source and its content say, never what users write into it."""

from __future__ import annotations

import orjson
import pytest

from cacheserver.model import Digest, Key, Kind, Record, UserMetadata, blob_references, encode

MINE, OTHERS = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)


def manifest(users: UserMetadata, message: str = "") -> bytes:
    status = {"content": {"digest": MINE}, "conditions": [{"type": "x", "message": message, "observedDigest": message}]}
    key = Key(Kind.REVISION, "team", "edge", "app", "w1")
    record = Record(key, {}, b'{"repository":"edge"}', orjson.dumps(status))
    return encode(record, previous=None, now="2026-01-01T00:00:00Z", users=users)


@pytest.mark.parametrize(
    "users",
    [
        UserMetadata(annotations={"example.com/seen": OTHERS}),
        UserMetadata(annotations={"digest": OTHERS}),
        UserMetadata(annotations={"a": f'"digest":"{OTHERS}"', "digest": f'}},"spec":{{"digest":"{OTHERS}"'}),
        UserMetadata(owner_references=[{"uid": OTHERS}]),
    ],
)
def test_no_annotation_keeps_content_that_is_not_the_objects(users: UserMetadata) -> None:
    """Else whoever may annotate keeps every content that was replaced, and fills etcd with it."""
    assert blob_references(manifest(users)) == {MINE}


def test_no_condition_keeps_content_that_is_not_the_objects() -> None:
    assert blob_references(manifest(UserMetadata(), OTHERS)) == {MINE}
