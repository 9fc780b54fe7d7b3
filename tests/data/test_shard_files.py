"""Manifests of shards: what belongs to another configuration, and what is damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hard_aug.data import ShardWriter, read_shards
from hard_aug.data.shard_files import find_damage, read_manifest, read_manifests, remove_shard, remove_strays
from tests.helpers.shard_parts import CLASSES, LAYOUTS, hard, tree, write_all, writer


def test_a_folder_of_another_configuration(tmp_path: Path) -> None:
    write_all(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"\(search\.name: 'a' there, 'b' here; steps: 3 there, 4 here\)\. Choose"):
        writer(tmp_path, steps=4, search={"name": "b"})
    with pytest.raises(ValueError, match="extra: nothing there, None here"):
        writer(tmp_path, extra=None)
    with pytest.raises(ValueError, match="layout: 'webdataset' there, 'image_folder' here"):
        writer(tmp_path, "image_folder")
    with pytest.raises(ValueError, match=r"classes\.1: 'apple/pear' there, 'pear' here"):
        ShardWriter(tmp_path, identity={"steps": 3, "search": {"name": "a"}}, classes=("zebra", "pear", CLASSES[2]))
    with pytest.raises(ValueError, match=r"and 92 more\)"):
        writer(tmp_path, **{f"x{i}": i for i in range(100)})
    assert tree(tmp_path) == before


def test_two_configurations_begun_at_once(tmp_path: Path) -> None:
    first, second = writer(tmp_path), writer(tmp_path, steps=4)
    first.write(0, hard(0))
    second.write(1, hard(1))
    for call in (lambda: first.is_done(1), lambda: second.is_done(0), first.finish, lambda: read_shards(tmp_path)):
        with pytest.raises(ValueError, match="another configuration"):
            call()


def test_equal_settings_are_equal_after_json(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"range": (1, 2), "limit": math.nan, 3: "three"}
    ShardWriter(tmp_path, identity=settings, classes=CLASSES).write(0, hard(0))
    assert ShardWriter(tmp_path, identity=settings, classes=CLASSES).is_done(0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_named(tmp_path: Path, layout: str) -> None:
    write_all(tmp_path, layout)
    manifests = read_manifests(tmp_path)
    assert list(manifests) == [0, 1, 2]
    assert all(find_damage(tmp_path, manifest) == "" for manifest in manifests.values())
    name = next(iter(manifests[1]["sha256"]))
    (tmp_path / name).write_bytes(b"other")
    assert find_damage(tmp_path, manifests[1]) == f"{name} is not what was written"
    (tmp_path / name).unlink()
    assert find_damage(tmp_path, manifests[1]) == f"{name} is missing"
    (tmp_path / "shard-000002.json").write_text("[]")
    assert read_manifest(tmp_path, 2) is None
    assert list(read_manifests(tmp_path)) == [0, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_is_removed_without_a_trace(tmp_path: Path, layout: str) -> None:
    write_all(tmp_path / "all", layout)
    write_all(tmp_path / "two", layout, slice(0, 2))
    remove_shard(tmp_path / "all", 2)
    remove_strays(tmp_path / "all", read_manifests(tmp_path / "all"))
    assert tree(tmp_path / "all") == tree(tmp_path / "two")


def test_a_changed_number_of_a_manifest_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its other hashes are those of the data and of the configuration; manifests of earlier versions have no digest."""
    write_all(tmp_path)
    path = tmp_path / "shard-000001.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace('"accepted": 4', '"accepted": 6'), encoding="utf-8")
    assert read_manifest(tmp_path, 1) is None
    assert f"{path} is not the manifest of that shard, or is damaged" in caplog.text
    with pytest.raises(ValueError, match=rf"{path} is damaged\. Run the command that generated it again"):
        read_shards(tmp_path)
    assert not writer(tmp_path).is_done(1)
    former = {key: value for key, value in json.loads(whole).items() if key != "digest"}
    path.write_text(json.dumps(former), encoding="utf-8")
    assert writer(tmp_path).is_done(1)
    assert len(read_shards(tmp_path).images) == 12


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    writer(tmp_path).finish()
    path = tmp_path / "index.json"
    for content in (b"", b"\xff", b"[]", b'{"shards": [0, "x"]}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} is damaged .*Remove it"):
            read_shards(tmp_path)
    path.unlink()
    assert len(read_shards(tmp_path).images) == 12
