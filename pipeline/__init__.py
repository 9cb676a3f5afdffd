"""Data engineering and stage entry points. Sets the environment that libraries read on import."""

import os
import pwd
import tempfile
from pathlib import Path

# On cores that are busy with something else, OpenMP threads that spin while they wait make small
# matrix products up to twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Dask logs every connection, and errors whenever a cluster closes. What matters to the user arrives
# as an exception.
os.environ.setdefault("DASK_DISTRIBUTED__LOGGING__DISTRIBUTED", "critical")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")


def _name_unknown_user() -> None:
    """Give a user id that the system does not know a name, and a home that it can write to.

    ``docker run --user`` leaves both out; torch, DVC, Prefect and others ask for them.
    """
    uid = os.getuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        os.environ["USER"] = os.environ.get("USER") or str(uid)
        if not os.access(os.environ.get("HOME", ""), os.W_OK):
            home = Path(tempfile.gettempdir()) / f"wam-{uid}"
            home.mkdir(mode=0o700, exist_ok=True)
            os.environ["HOME"] = str(home)


_name_unknown_user()
