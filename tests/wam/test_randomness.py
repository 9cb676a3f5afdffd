import pytest
import torch

from wam.randomness import normal, row_generators, shared_generator, task_generator, uniform


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_row_has_its_own_noise_whatever_the_batch(draw) -> None:
    alone = draw((1, 5), row_generators([7]), "cpu")
    together = draw((3, 5), row_generators([3, 7, 1]), "cpu")
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_one_generator_serves_the_whole_draw_in_its_order() -> None:
    one, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    first = uniform((2, 3), one, "cpu")
    assert torch.equal(first, torch.rand(2, 3, generator=other))
    assert torch.equal(uniform((2, 3), one, "cpu"), torch.rand(2, 3, generator=other))


def test_rows_without_a_generator_are_refused() -> None:
    with pytest.raises(ValueError, match="2 generators for a draw of 3 rows"):
        uniform((3, 5), row_generators([1, 2]), "cpu")


def test_tasks_and_their_parts_have_generators_of_their_own() -> None:
    generators = [
        task_generator(3, "open_drawer"),
        task_generator(3, "open_drawer", part=1),
        task_generator(3, "close_drawer"),
        task_generator(4, "open_drawer"),
        shared_generator(3),
    ]
    assert len({int(torch.randint(2**62, (), generator=g)) for g in generators}) == 5
    # The same on every machine and in every version.
    assert task_generator(3, "turn_off_led", part=2).initial_seed() == 6397782642260607269
