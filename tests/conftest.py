import pipeline  # noqa: F401 (sets OpenMP's environment before torch is imported)
