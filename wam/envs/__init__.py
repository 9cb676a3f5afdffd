"""The play table: scenes, robot, cameras, task oracle and scripted experts.

Only modules below this package use pybullet and gymnasium (``pip install "wam[sim]"``).
"""
