"""Serve a deployment from one process: no work pool and no worker needed.

python -m flows.serve
prefect deployment run reproduce/here --param profile=ci --watch
"""

from flows.reproduce import reproduce

if __name__ == "__main__":
    reproduce.serve(name="here")
