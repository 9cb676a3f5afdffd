"""The store as data sets of the LeRobot library."""
