"""The play table's own scene files: geometry, meshes, URDF, textures."""
