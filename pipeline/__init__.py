import os

# On cores that are busy with something else, OpenMP threads that spin while they wait make small
# matrix products up to twenty times slower. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
