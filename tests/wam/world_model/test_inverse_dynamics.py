import torch

from wam.world_model.inverse_dynamics import InverseDynamics, action_error, gripper_accuracy, spans


def test_the_head_predicts_every_action_between_two_frames() -> None:
    head = InverseDynamics(5, (8, 8), steps=3)
    earlier, later = torch.randn(2, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    prediction = head(earlier, later)
    assert prediction.shape == (4, 2, 3, 7)
    assert not torch.equal(head(earlier + 1, later), prediction)
    assert not torch.equal(head(earlier, later + 1), prediction)


def test_a_span_holds_the_actions_from_one_frame_to_the_other() -> None:
    action = torch.arange(5.0)[:, None, None].expand(5, 2, 7)
    id_mask = torch.ones(4, 2, dtype=torch.bool)
    id_mask[2, 1] = False
    targets, mask = spans(action, id_mask, 1)
    assert torch.equal(targets.squeeze(2), action[:-1])
    assert torch.equal(mask, id_mask)
    targets, mask = spans(action, id_mask, 3)
    assert targets[:, 0, :, 0].tolist() == [[0, 1, 2], [1, 2, 3]]
    assert mask.tolist() == [[True, False], [True, False]]


def test_the_error_is_a_mean_over_dimensions_and_pairs() -> None:
    prediction, action = torch.zeros(2, 2, 1, 7), torch.ones(2, 2, 1, 7)
    action[..., 0] = 3.0
    mask = torch.ones(2, 2, dtype=torch.bool)
    error = action_error(prediction, action, mask)
    assert error.tolist() == [3, 1, 1, 1, 1, 1, 1]
    # Copying dimensions or steps leaves the mean as it is.
    for copies in ((1, 1, 1, 2), (1, 1, 2, 1)):
        repeated = action_error(prediction.repeat(copies), action.repeat(copies), mask)
        assert repeated.mean() == error.mean()


def test_pairs_across_an_episode_boundary_do_not_count() -> None:
    prediction, action = torch.zeros(2, 1, 1, 7), torch.ones(2, 1, 1, 7)
    action[1] = 100.0
    mask = torch.tensor([[True], [False]])
    assert action_error(prediction, action, mask).tolist() == [1] * 7
    assert not action_error(prediction, action, torch.zeros_like(mask)).any()
    prediction[0, 0, 0, 6] = -1
    assert gripper_accuracy(prediction, action, mask) == 0
    prediction[0, 0, 0, 6] = 0.1
    assert gripper_accuracy(prediction, action, mask) == 1
