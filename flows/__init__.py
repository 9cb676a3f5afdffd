"""Prefect flows. The only package that imports Prefect."""

import os

import pipeline  # noqa: F401 (sets the environment of Dask before Prefect imports it)

# Prefect's client telemetry has no settings key; it must not reach for the internet by default.
os.environ.setdefault("DO_NOT_TRACK", "1")
