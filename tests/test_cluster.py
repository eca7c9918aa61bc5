"""A batch over a cluster ends as one over a loop does, wherever its cases were done."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import pytest

from amsam_cli import cluster
from amsam_cli.batch import Destination, Options, Outcome
from amsam_cli.cluster import EngineAt, run_on_ray
from amsam_cli.errors import AdapterError, InputError, ResourceError
from amsam_cli.io import find_cases


class RayError(Exception):
    pass


class InThisProcess:
    """Ray in miniature: tasks run when they are asked for; the last one is ready first."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, gpus=0):
        self.gpus, self.asked, self.begun = gpus, {}, []

    def init(self, address, **_):
        if address not in ("local", "head:6379"):
            raise ConnectionError(f"no answer from {address}")
        self.begun.append(address)

    def shutdown(self):
        self.begun.append("shutdown")

    def cluster_resources(self):
        return {"CPU": 4.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def remote(self, **asked):
        self.asked = asked
        return lambda task: SimpleNamespace(remote=lambda *args: partial(task, *args))

    def wait(self, waiting, num_returns):
        return waiting[-num_returns:], waiting[:-num_returns]

    def get(self, ready):
        if "dies" in ready.args[0].name:
            raise RayError("worker killed, out of memory")
        return ready()


@pytest.fixture
def ray(monkeypatch):
    cluster._loaded.cache_clear()
    monkeypatch.setitem(sys.modules, "ray", InThisProcess())
    return sys.modules["ray"]


def segmented(scans, adapter, **options):
    destination = Destination.parse(scans.parent / "out", format=None, is_batch=True)
    return list(run_on_ray(find_cases(scans), EngineAt(adapter, **options), destination, Options()))


def test_every_case_is_done_once_and_skipped_the_next_time(ray, adapter_folder, scans_folder):
    first = segmented(scans_folder / "images", adapter_folder)
    again = segmented(scans_folder / "images", adapter_folder)

    assert [(each.case.name, each.status) for each in first] == [("case_8", "done"), ("case_7", "done")]
    assert all(each.mask.is_file() and each.record for each in first)
    assert {each.status for each in again} == {"skipped"}
    assert ray.begun == ["local", "shutdown"] * 2


def test_case_that_fails_or_dies_leaves_the_others_alone(ray, adapter_folder, scans_folder):
    images = scans_folder / "images"
    (images / "broken.nii.gz").write_bytes(b"no scan")
    (images / "dies.nii.gz").write_bytes((images / "case_7.nii.gz").read_bytes())

    found = {each.case.name: each for each in segmented(images, adapter_folder)}

    assert isinstance(found["broken"].error, InputError)
    assert isinstance(found["dies"].error, ResourceError)
    assert "out of memory" in found["dies"].error.message
    assert (found["case_7"].status, found["case_8"].status) == ("done", "done")


@pytest.mark.parametrize(("gpus", "device", "expected"), [(0, "auto", 0), (2, "auto", 1), (2, "cpu", 0)])
def test_case_takes_a_gpu_where_there_is_one(ray, adapter_folder, scans_folder, gpus, device, expected):
    ray.gpus = gpus

    segmented(scans_folder / "images", adapter_folder, device=device)

    assert (ray.asked["num_cpus"], ray.asked["num_gpus"]) == (1, expected)


def test_cluster_that_is_not_there_is_refused_in_words(ray, adapter_folder, scans_folder):
    where = Destination(scans_folder / "out", is_folder=True)
    cases = find_cases(scans_folder / "images")

    with pytest.raises(InputError, match="no answer from nowhere:1"):
        next(run_on_ray(cases, EngineAt(adapter_folder), where, Options(), address="nowhere:1"))
    with pytest.raises(AdapterError):
        next(run_on_ray(cases, EngineAt(scans_folder / "none"), where, Options()))
    assert ray.begun == []


def test_cluster_that_does_not_start_here_is_said_in_words(ray, monkeypatch, adapter_folder, scans_folder):
    def init(**_):
        raise Exception("The current node timed out during startup.\nSome of the raylet failed")  # as Ray does

    monkeypatch.setattr(ray, "init", init)

    with pytest.raises(ResourceError, match="did not start on this machine: The current node timed out") as caught:
        segmented(scans_folder / "images", adapter_folder)

    assert "raylet" not in caught.value.message
    assert caught.value.hint


def test_missing_package_says_what_to_install(monkeypatch, adapter_folder, scans_folder):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(InputError) as caught:
        segmented(scans_folder / "images", adapter_folder)

    assert "amsam[ray]" in caught.value.hint


@pytest.mark.filterwarnings("default")
def test_what_goes_to_ray_and_comes_back_survives_the_way(adapter_folder, scans_folder):
    pickle = pytest.importorskip("ray.cloudpickle")
    (case, _), where = find_cases(scans_folder / "images"), Destination(scans_folder / "out", is_folder=True)
    lost = Outcome(case, "failed", error=InputError("what", "what next"))

    asked = pickle.loads(pickle.dumps((cluster._segment_there, case, EngineAt(adapter_folder), where, Options())))
    back = pickle.loads(pickle.dumps(lost))

    assert asked[:3] == (cluster._segment_there, case, EngineAt(adapter_folder))
    assert (back.case, back.error.message, back.error.hint) == (case, "what", "what next")
