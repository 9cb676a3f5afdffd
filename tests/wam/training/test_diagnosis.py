from wam.training.diagnosis import diagnose

HEALTHY = {"step": 1000, "kl": 12.0, "psnr_static": 27.0}
VALIDATION = {"kl": 12.0, "posterior_psnr": 27.0, "open_loop_psnr": 21.0}


def signatures(record: dict[str, float], validation: dict[str, float]) -> list[str]:
    return [warning.signature for warning in diagnose(HEALTHY | record, validation)]


def test_a_healthy_training_gives_no_warning() -> None:
    assert signatures({}, VALIDATION) == []
    assert signatures({}, {}) == []


def test_collapsed_latents_are_noticed_once_training_is_under_way() -> None:
    collapsed = {"kl": 0.01, "psnr_static": 16.0}
    assert "collapsed" in signatures(collapsed, VALIDATION)[0]
    assert signatures(collapsed | {"step": 50}, VALIDATION) == []


def test_a_prior_that_does_not_learn_is_noticed() -> None:
    unlearned = {"kl": 80.0, "posterior_psnr": 29.0, "open_loop_psnr": 14.0}
    assert "prior" in signatures({}, unlearned)[0]
