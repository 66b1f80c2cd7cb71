"""Device meshes, array placement, and communication between processes."""
