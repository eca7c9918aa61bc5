import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from amsam_cli.errors import InputError, WeightsError
from amsam_cli.weights import cache, ensure, home, is_offline, location, pull, sha256_of, verify

from .conftest import BYTES, SHA256


def test_home_is_amsam_home_when_set(home: Path):
    assert cache.home() == home


def test_home_is_the_platforms_cache_when_unset(monkeypatch):
    monkeypatch.delenv("AMSAM_HOME", raising=False)

    assert home() == user_cache_path("amsam", appauthor=False)


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False), ("OFF", False)])
@pytest.mark.parametrize("name", ["AMSAM_OFFLINE", "HF_HUB_OFFLINE"])
def test_is_offline_reads_the_environment(home, monkeypatch, name, value, offline):
    monkeypatch.setenv(name, value)

    assert is_offline() is offline


def test_sha256_of_is_the_known_digest_of_abc(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")

    digest = sha256_of(tmp_path / "abc")

    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_ensure_downloads_once(published, server, home):
    first = ensure("hashed")
    second = ensure("hashed")

    assert first == second == home / "hashed.pth"
    assert first.read_bytes() == BYTES
    assert len(server.requests) == 1


def test_pull_reports_progress_up_to_the_whole(published, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 4096)
    seen = []

    pull("hashed", lambda done, total: seen.append((done, total)))

    assert seen == [(0, 10240), (4096, 10240), (8192, 10240), (10240, 10240)]


def test_pull_leaves_nothing_but_the_file_and_its_record(published, home):
    pull("hashed")

    assert sorted(path.name for path in home.iterdir()) == ["hashed.pth", "hashed.pth.json"]


def test_pull_goes_on_where_a_broken_download_stopped(published, server, home):
    server.cut_after = 4000
    with pytest.raises(WeightsError, match="broke after 4000 of 10240 bytes"):
        pull("hashed")
    server.cut_after = None

    path = pull("hashed")

    assert path.read_bytes() == BYTES
    assert server.requests[-1]["Range"] == "bytes=4000-"


def test_pull_starts_anew_when_the_server_cannot_go_on(published, server, home):
    home.mkdir()
    (home / "hashed.pth.part").write_bytes(b"x" * 4000)
    server.ranges = False

    assert pull("hashed").read_bytes() == BYTES


def test_pull_starts_anew_when_the_part_is_longer_than_the_file(published, home):
    home.mkdir()
    (home / "hashed.pth.part").write_bytes(b"x" * 20000)

    assert pull("hashed").read_bytes() == BYTES


def test_pull_starts_anew_when_no_hash_could_tell_two_halves_apart(published, server, home):
    home.mkdir()
    (home / "unhashed.pt.part").write_bytes(BYTES[:4000])

    pull("unhashed")

    assert "Range" not in server.requests[-1]


def test_pull_refuses_other_bytes_than_published(published, server, home):
    server.content = b"<html>log in first</html>"

    with pytest.raises(WeightsError, match=r"was published for hashed") as caught:
        pull("hashed")

    assert "amsam models pull hashed" in caught.value.hint
    assert not list(home.iterdir())


def test_pull_says_what_to_place_where_when_the_server_refuses(published, server, home, monkeypatch):
    monkeypatch.setitem(published, "hashed", replace(published["hashed"], url=f"{server.url}/missing.pth"))

    with pytest.raises(WeightsError, match="404") as caught:
        pull("hashed")

    assert f"place it as '{home / 'missing.pth'}'" in caught.value.hint


def test_pull_says_so_when_no_server_answers(published, server, monkeypatch):
    monkeypatch.setitem(published, "hashed", replace(published["hashed"], url="http://127.0.0.1:1/hashed.pth"))

    with pytest.raises(WeightsError, match="downloading it failed"):
        pull("hashed")


def test_pull_goes_through_the_proxy_of_the_environment(published, server, monkeypatch):
    elsewhere = "http://weights.invalid/hashed.pth"
    monkeypatch.setitem(published, "hashed", replace(published["hashed"], url=elsewhere))
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr("urllib.request._opener", None)  # urllib reads the environment at its first request only

    pull("hashed")

    assert server.requests[-1]["path"] == elsewhere


@pytest.mark.parametrize("fetch", [ensure, pull])
def test_cache_says_which_file_to_place_where_when_offline(published, server, home, monkeypatch, fetch):
    monkeypatch.setenv("AMSAM_OFFLINE", "1")

    with pytest.raises(WeightsError, match="switched off by AMSAM_OFFLINE") as caught:
        fetch("hashed")

    assert f"download {server.url}/hashed.pth" in caught.value.hint
    assert f"place it as '{home / 'hashed.pth'}'" in caught.value.hint
    assert not server.requests


def test_ensure_takes_a_file_placed_by_hand_when_offline(published, home, monkeypatch):
    monkeypatch.setenv("AMSAM_OFFLINE", "1")
    home.mkdir()
    (home / "hashed.pth").write_bytes(BYTES)

    assert ensure("hashed") == home / "hashed.pth"


def test_ensure_refuses_a_wrong_file_placed_by_hand_and_keeps_it(published, home):
    home.mkdir()
    (home / "hashed.pth").write_bytes(b"other weights")

    with pytest.raises(WeightsError, match="published for hashed"):
        ensure("hashed")

    assert (home / "hashed.pth").exists()


def test_ensure_records_the_first_hash_seen_when_none_is_published(published, home):
    ensure("unhashed")

    assert json.loads((home / "unhashed.pt.json").read_text())["sha256"] == SHA256


def test_ensure_refuses_a_file_that_changed_since_first_seen(published, home):
    ensure("unhashed").write_bytes(b"changed")

    with pytest.raises(WeightsError, match="was first seen for unhashed"):
        ensure("unhashed")


def test_ensure_refuses_a_file_that_changed_since_it_was_checked(published, home):
    path = ensure("hashed")
    path.write_bytes(b"x" * len(BYTES))
    os.utime(path, ns=(1, 1))

    with pytest.raises(WeightsError, match="published for hashed"):
        ensure("hashed")


def test_ensure_hashes_an_unchanged_file_only_once(published, monkeypatch):
    ensure("hashed")
    monkeypatch.setattr(cache, "sha256_of", lambda path: pytest.fail("hashed again"))

    assert ensure("hashed").is_file()


def test_ensure_finds_the_builtin_weights_in_the_package(home):
    builtin = cache.find_checkpoint("builtin")

    assert location(builtin) == Path(cache.__file__).parent / "builtin.safetensors"


def test_ensure_refuses_an_unknown_model(home):
    with pytest.raises(InputError, match="no model called"):
        ensure("nonesuch")


def test_verify_tells_missing_and_damaged_apart(published):
    ensure("hashed").write_bytes(b"damaged")

    states = {status.checkpoint.name: status.state for status in verify()}

    assert states == {"hashed": "damaged", "unhashed": "missing"}


def test_verify_finds_fresh_downloads_ok(published):
    ensure("hashed")
    ensure("unhashed")

    assert [(status.state, status.sha256) for status in verify()] == [("ok", SHA256)] * 2


def test_verify_records_nothing_inside_the_package(home, tmp_path, monkeypatch):
    weights = tmp_path / "package" / "builtin.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    builtin = cache.find_checkpoint("builtin")
    monkeypatch.setattr(cache, "CHECKPOINTS", {"builtin": builtin})
    monkeypatch.setattr(cache, "location", lambda checkpoint: weights)

    (status,) = cache.verify()

    assert status.state == "ok"
    assert list(weights.parent.iterdir()) == [weights]
