"""What is wrong with the environment of several processes is said in one sentence."""

import socket
from collections.abc import Iterator

import pytest

from wam.distributed import ALONE, joined
from wam.errors import WamError

COMPLETE = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29400",
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("world_size", [None, "1"])
def test_one_process_is_alone(world_size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    with joined() as ranks:
        assert ranks == ALONE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a number from 1 on.*unset WORLD_SIZE"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='': expected a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0': expected a number from 1 on"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2'"),
        ({"RANK": "", "MASTER_ADDR": ""}, "WORLD_SIZE=2, but RANK, MASTER_ADDR not set.*torchrun"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT not set.*unset WORLD_SIZE"),
        ({"RANK": "first"}, "RANK='first': expected a number from 0 on"),
        ({"RANK": "2"}, "RANK=2: not below WORLD_SIZE=2"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http'"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(
    changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**COMPLETE, **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WamError, match=message), joined():
        pass


def test_a_port_that_is_taken_is_named(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**COMPLETE, "MASTER_PORT": str(taken_port)}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(WamError, match=f"did not meet at 127.0.0.1:{taken_port}.*torchrun"),
        joined(),
    ):
        pass
