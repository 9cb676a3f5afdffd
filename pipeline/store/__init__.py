"""The sharded Zarr store: its arrays, its writer, its reader."""
