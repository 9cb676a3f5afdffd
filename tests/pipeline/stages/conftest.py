from tests.pipeline.small_run import layout, profile, trained

__all__ = ["layout", "profile", "trained"]  # fixtures
