"""Prefect flows. The only package that imports Prefect."""

import os

import pipeline  # noqa: F401 (sets the environment of Dask before Prefect imports it)

# Prefect's client telemetry has no settings key; it must not reach for the internet by default.
os.environ.setdefault("DO_NOT_TRACK", "1")

# A server on this machine is never behind a proxy.
_LOOPBACK = "127.0.0.1,localhost,::1"
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), _LOOPBACK]))

# Five, the default, are a minute of silence for every message to a server that has gone.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "1")
