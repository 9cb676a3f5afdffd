"""What LeRobot's own library reads of a data set, as one .npz. Needs nothing of this project.

python tests/compat/read_lerobot.py DATA_SET OUTPUT
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, output = sys.argv[1:]
dataset = LeRobotDataset("wam/exported", root=root)
rows = list(dataset)
columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
np.savez(output, num_episodes=dataset.num_episodes, **columns)
