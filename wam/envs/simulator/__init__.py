"""The play table in PyBullet: engine, robot, table, cameras."""
