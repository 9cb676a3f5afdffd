import torch

from wam.inverse_dynamics import InverseDynamics, action_error, gripper_accuracy


def test_row_t_of_the_head_sees_frames_t_and_t_plus_1() -> None:
    head = InverseDynamics(5, (8, 8))
    embedding = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0))
    prediction = head(embedding)
    assert prediction.shape == (3, 2, 7)
    changed = embedding.clone()
    changed[0] += 1
    assert torch.equal(head(changed)[1:], prediction[1:])
    assert not torch.equal(head(changed)[0], prediction[0])


def test_the_error_is_a_mean_over_dimensions_and_pairs() -> None:
    prediction, action = torch.zeros(2, 2, 7), torch.ones(2, 2, 7)
    action[..., 0] = 3.0
    mask = torch.ones(2, 2, dtype=torch.bool)
    error = action_error(prediction, action, mask)
    assert error.tolist() == [3, 1, 1, 1, 1, 1, 1]
    # Copying the dimensions leaves the mean as it is.
    doubled = action_error(prediction.repeat(1, 1, 2), action.repeat(1, 1, 2), mask)
    assert doubled.mean() == error.mean()


def test_pairs_across_an_episode_boundary_do_not_count() -> None:
    prediction, action = torch.zeros(2, 1, 7), torch.ones(2, 1, 7)
    action[1] = 100.0
    mask = torch.tensor([[True], [False]])
    assert action_error(prediction, action, mask).tolist() == [1] * 7
    assert not action_error(prediction, action, torch.zeros_like(mask)).any()
    prediction[0, 0, 6] = -1
    assert gripper_accuracy(prediction, action, mask) == 0
    prediction[0, 0, 6] = 0.1
    assert gripper_accuracy(prediction, action, mask) == 1
