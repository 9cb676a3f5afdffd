"""Data engineering and stage entry points. Sets the environment that libraries read on import."""

import os

# On cores that are busy with something else, OpenMP threads that spin while they wait make small
# matrix products up to twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Dask logs every connection, and errors whenever a cluster closes. What matters to the user arrives
# as an exception.
os.environ.setdefault("DASK_DISTRIBUTED__LOGGING__DISTRIBUTED", "critical")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
