import pytest

from flows.reproduce import stage_names
from wam.errors import WamError


def test_stages_come_in_an_order_that_respects_their_dependencies() -> None:
    names = stage_names("ci")
    assert names[0] == "collect@ci"
    assert names[-1] == "report@ci"
    assert names.index("convert@ci") < names.index("train_world_model@ci-wam")
    assert names.index("train_world_model@ci-dreamerv2") < names.index("finetune@ci-dreamerv2")


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("convert", ["convert@demo"]),
        ("finetune", ["finetune@demo-wam", "finetune@demo-dreamerv2"]),
        ("finetune@demo-wam", ["finetune@demo-wam"]),
    ],
)
def test_one_stage_can_be_chosen(only: str, expected: list[str]) -> None:
    assert stage_names("demo", only) == expected


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(WamError, match="stage 'convrt' is not in"):
        stage_names("demo", "convrt")
